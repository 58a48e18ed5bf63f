"""The public client drives the built program: every command it lists, and beside it clients that mean harm.

Arguments: the program, a directory for sockets and images.
"""

import asyncio
import os
import socket
import subprocess
import sys

from qemu.qmp import EventListener, QMPClient
from qemu.qmp.qmp_client import ExecuteError

PROGRAM, DIRECTORY = sys.argv[1:]
QMP = os.path.join(DIRECTORY, "qmp")
OTHER = os.path.join(DIRECTORY, "other")
IMAGES = [os.path.join(DIRECTORY, name) for name in ("first.qcow2", "second.qcow2")]
MOST_MEMORY = 96 << 20


def start():
    for image in IMAGES:
        create = [PROGRAM, "img", "create", "-q", "-f", "qcow2", image, "16M"]
        subprocess.run(create, check=True)
    return subprocess.Popen(
        [PROGRAM, "-S", "-nodefaults", "-display", "none", "-m", "32", "-name", "guest=tried", "-no-shutdown"]
        + ["-qmp", f"unix:{QMP},server=on,wait=off", "-qmp", f"unix:{OTHER},server=on,wait=off"]
        + ["-drive", f"file={IMAGES[0]},format=qcow2,if=none,id=d", "-device", "virtio-blk-pci,drive=d,id=disk"]
        + ["-chardev", "ringbuf,id=ring,size=64"]
    )


async def connect(path):
    qmp = QMPClient("test")
    for _ in range(200):
        if os.path.exists(path):
            break
        await asyncio.sleep(0.05)
    await qmp.connect(path)
    return qmp


async def refused(qmp, name, arguments, error_class="GenericError"):
    try:
        await qmp.execute(name, arguments)
    except ExecuteError as error:
        assert error.error_class == error_class, f"{name}: {error.error_class}: {error}"
        return str(error)
    raise AssertionError(f"{name} {arguments} was taken")


async def describes_itself(qmp):
    """What is listed is described, with types that are there, and events are described, too."""
    commands = {command["name"] for command in await qmp.execute("query-commands")}
    schema = await qmp.execute("query-qmp-schema")
    by_kind = {}
    for entity in schema:
        by_kind.setdefault(entity["meta-type"], set()).add(entity["name"])
    assert by_kind["command"] == commands, by_kind["command"] ^ commands
    names = {entity["name"] for entity in schema}
    assert len(names) == len(schema), "a name is there twice"
    for entity in schema:
        used = [entity[key] for key in ("arg-type", "ret-type", "element-type") if key in entity]
        used += [member["type"] for member in entity.get("members", []) if "type" in member]
        used += [case["type"] for case in entity.get("variants", [])]
        assert names >= set(used), f"{entity['name']} uses {set(used) - names}"
    assert {"STOP", "RESUME", "RESET", "SHUTDOWN", "POWERDOWN", "BLOCK_IO_ERROR"} <= by_kind["event"]
    return commands


async def answers_every_question(qmp, commands):
    for name in sorted(commands):
        if name == "query-balloon":
            await refused(qmp, name, {}, "DeviceNotActive")
        elif name == "query-cpu-model-expansion":
            model = {"type": "static", "model": {"name": "qemu64"}}
            expanded = await qmp.execute(name, model)
            assert expanded["model"]["name"] == "base", expanded
        elif name.startswith("query-"):
            await qmp.execute(name)
    (vcpu,) = await qmp.execute("query-cpus-fast")
    assert os.path.exists(f"/proc/{qmp_pid}/task/{vcpu['thread-id']}"), vcpu
    assert await qmp.execute("query-name") == {"name": "tried"}
    (disk,) = await qmp.execute("query-block")
    assert (disk["device"], disk["inserted"]["drv"]) == ("d", "qcow2"), disk
    for name in commands:
        await refused(qmp, name, {"no-such-argument": 1})


async def changes_the_machine(qmp):
    listener = EventListener(("STOP", "RESUME", "RESET", "POWERDOWN", "DEVICE_DELETED"))
    with qmp.listen(listener):
        for command, event in [
            ("cont", "RESUME"),
            ("stop", "STOP"),
            ("system_reset", "RESET"),
            ("system_powerdown", "POWERDOWN"),
        ]:
            await qmp.execute(command)
            assert (await asyncio.wait_for(listener.get(), 20))["event"] == event
        await qmp.execute("block_resize", {"device": "d", "size": 32 << 20})
        await qmp.execute("set-action", {"reboot": "shutdown", "shutdown": "pause"})
        file = {"driver": "file", "filename": IMAGES[1]}
        await qmp.execute("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": file})
        await qmp.execute("device_add", {"driver": "virtio-blk-pci", "drive": "n", "id": "plugged"})
        await refused(qmp, "blockdev-del", {"node-name": "n"})
        await refused(qmp, "device_add", {"driver": "virtio-rng-pci", "id": "plugged"})
        await refused(qmp, "device_del", {"id": "nobody"}, "DeviceNotFound")
        await qmp.execute("device_del", {"id": "plugged"})
        # Nobody runs who could let it go: the reset does, where it is one.
        await qmp.execute("set-action", {"reboot": "reset"})
        await qmp.execute("system_reset")
        gone = [(await asyncio.wait_for(listener.get(), 20)) for _ in range(3)]
        assert [event["event"] for event in gone] == ["DEVICE_DELETED", "DEVICE_DELETED", "RESET"], gone
        assert gone[1]["data"] == {"device": "plugged", "path": "/machine/peripheral/plugged"}, gone
    await qmp.execute("blockdev-del", {"node-name": "n"})
    await qmp.execute("object-add", {"qom-type": "iothread", "id": "worker"})
    assert [thread["id"] for thread in await qmp.execute("query-iothreads")] == ["worker"]
    await qmp.execute("object-del", {"id": "worker"})
    await qmp.execute("ringbuf-write", {"device": "ring", "data": "kept"})
    assert await qmp.execute("ringbuf-read", {"device": "ring", "size": 64}) == "kept"
    assert "d (" in await qmp.execute("human-monitor-command", {"command-line": "info block"})


async def takes_descriptors(qmp):
    for take, give_up in [
        (("getfd", {"fdname": "null"}), ("closefd", {"fdname": "null"})),
        (("add-fd", {"fdset-id": 7}), ("remove-fd", {"fdset-id": 7})),
    ]:
        await refused(qmp, *take)
        with open(os.devnull) as null:
            qmp.send_fd_scm(null.fileno())
            await qmp.execute(*take)
        await qmp.execute(*give_up)
        await refused(qmp, *give_up)


def attack(message, expected=b""):
    """A client that sends this, reads until it was told what is expected, and is gone; gives what it was told."""
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(10)
        client.connect(OTHER)
        client.recv(4096)
        told = b""
        try:
            client.sendall(message)
            while expected not in told and (part := client.recv(65536)):
                told += part
        except (BrokenPipeError, ConnectionResetError, TimeoutError):
            pass
        return told


async def bears_bad_clients(qmp):
    negotiate = b'{"execute": "qmp_capabilities"}\n'
    schema = b'{"execute": "query-qmp-schema"}\n'
    for message, expected in [
        (b"\xff\xfe\n", b"GenericError"),
        (b"[" * 5000, b"GenericError"),
        (b'{"execute": "' + b"x" * (2 << 20) + b'"}\n', b"GenericError"),
        (negotiate + b'{"execute": ["query-status"]}\n', b"GenericError"),
        (negotiate + b'{"execute": "query-status", "arguments": 7}\n', b"GenericError"),
        (negotiate + b'{"execute": "query-', b""),
    ]:
        told = await asyncio.to_thread(attack, message, expected)
        assert expected in told, (message[:40], told[:200])
        await asyncio.wait_for(qmp.execute("query-status"), 20)
    # It asks for hundreds of megabytes and takes none of them.
    deaf = asyncio.to_thread(attack, negotiate + schema * 5000)
    await asyncio.gather(deaf, *(qmp.execute("query-status") for _ in range(100)))
    with open(f"/proc/{qmp_pid}/statm") as statm:
        resident = int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    assert resident < MOST_MEMORY, f"{resident >> 20} MiB"
    # One who comes after all of them is served.
    later = await connect(OTHER)
    await later.execute("query-status")
    await later.disconnect()


async def main():
    qmp = await connect(QMP)
    commands = await describes_itself(qmp)
    await answers_every_question(qmp, commands)
    await changes_the_machine(qmp)
    await takes_descriptors(qmp)
    await bears_bad_clients(qmp)
    await qmp.execute("quit")
    await qmp.disconnect()


monitor = start()
qmp_pid = monitor.pid
try:
    asyncio.run(main())
    assert monitor.wait(20) == 0, monitor.returncode
finally:
    monitor.kill()
print("all good")
