use serde_json::json;

use super::object;
use crate::spec::ChardevSpec;
use crate::spec::chardev::SocketAddress;

fn read(value: serde_json::Value) -> Result<ChardevSpec, String> {
    ChardevSpec::read_wire(object(value)).map_err(|error| error.to_string())
}

#[test]
fn socket_is_a_server_unless_told_otherwise() {
    let address = json!({"type": "unix", "data": {"path": "/s"}});
    let server = read(json!({"id": "c", "backend": {"type": "socket", "data": {"addr": address, "wait": false}}}));
    let client = read(json!({"id": "c", "backend": {"type": "socket", "data": {"addr": address, "server": false}}}));

    let Ok(ChardevSpec::Socket(server)) = server else { panic!("{server:?}") };
    let Ok(ChardevSpec::Socket(client)) = client else { panic!("{client:?}") };
    assert!(server.server && !client.server);
    assert!(matches!(server.address(), Ok(SocketAddress::Unix { path, .. }) if path.as_os_str() == "/s"));
}

#[test]
fn names_of_the_schema_become_those_of_the_option() {
    let file = read(json!({"id": "c", "backend": {"type": "file", "data": {"out": "/o", "in": "/i"}}}));

    let Ok(ChardevSpec::File(file)) = file else { panic!("{file:?}") };
    assert_eq!((file.path.as_os_str(), file.input_path.is_some()), ("/o".as_ref(), true));
}

#[test]
fn mistakes_are_named() {
    let table = [
        (json!({}), "Parameter 'id' is missing"),
        (json!({"id": "c"}), "Parameter 'backend' is missing"),
        (json!({"id": "c", "backend": 1}), "Invalid parameter type for 'backend', expected: object"),
        (json!({"id": "c", "backend": {}}), "Parameter 'backend.type' is missing"),
        (
            json!({"id": "c", "backend": {"type": "socket", "data": {"addr": {"type": "vsock", "data": {}}}}}),
            "Parameter 'backend.data.addr.type' does not accept value 'vsock'; it takes inet, unix or fd",
        ),
        (
            json!({"id": "c", "backend": {"type": "file", "data": {"in": "/i"}}}),
            "Parameter 'backend.data.out' is missing",
        ),
        (
            json!({"id": "c", "backend": {"type": "socket", "data": {"server": false}}}),
            "Parameter 'backend.data.addr' is missing",
        ),
        (
            json!({"id": "c", "backend": {"type": "socket", "data": {"addr": {"type": "inet", "data": {"host": "h"}}}}}),
            "Parameter 'backend.data.addr.data.port' is missing",
        ),
        (
            json!({"id": "c", "backend": {"type": "null", "data": {"id": "d"}}}),
            "Parameter 'backend.data.id' is unexpected",
        ),
    ];
    for (value, message) in table {
        assert_eq!(read(value).unwrap_err(), message);
    }
}
