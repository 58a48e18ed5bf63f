//! `-numa`.

use super::{message, vm};

const BACKENDS: &str =
    "-m 256 -smp 4 -object memory-backend-ram,id=a,size=128M -object memory-backend-ram,id=b,size=128M";

#[test]
fn nodes_have_their_memory_and_processors() {
    let line = format!("{BACKENDS} -numa node,nodeid=0,cpus=0-1,memdev=a -numa node,nodeid=1,cpus=2,cpus=3,memdev=b");

    let numa = vm(&line).numa;

    assert_eq!(numa.nodes.iter().map(|node| node.memory).collect::<Vec<_>>(), [128 << 20, 128 << 20]);
    assert_eq!(numa.nodes[1].memdev.as_deref(), Some("b"));
    assert_eq!(numa.of_cpu, [0, 0, 1, 1]);
}

#[test]
fn memory_by_size_counts_mebibytes_and_processors_go_by_socket() {
    let numa = vm("-m 256 -smp 4,sockets=2 -numa node,mem=64 -numa node,mem=192M").numa;

    assert_eq!(numa.nodes.iter().map(|node| node.memory).collect::<Vec<_>>(), [64 << 20, 192 << 20]);
    assert_eq!(numa.of_cpu, [0, 0, 1, 1]);
}

#[test]
fn distances_are_kept() {
    let numa = vm("-m 256 -numa node,mem=128 -numa node,mem=128 -numa dist,src=0,dst=1,val=40").numa;

    assert_eq!(numa.distances, [(0, 1, 40)]);
}

#[test]
fn processor_in_no_node_is_put_into_the_first_with_a_warning() {
    let spec = vm("-m 256 -smp 2 -numa node,mem=128 -numa node,mem=128,cpus=1");

    assert_eq!(spec.numa.of_cpu, [0, 1]);
    assert!(spec.warnings.iter().any(|w| w == "-numa: vCPUs 0 are in no node and go to node 0"), "{:?}", spec.warnings);
}

#[test]
fn contradictions_are_refused_in_a_sentence() {
    let two = "-m 256 -numa node,mem=128 -numa node,mem=128";
    let cases = [
        ("-m 256 -numa node".to_owned(), "total memory for NUMA nodes (0x0) should equal RAM size (0x10000000)"),
        (format!("{BACKENDS} -numa node,memdev=a -numa node,memdev=a"), "memory backend a is used multiple times."),
        (format!("{BACKENDS} -numa node,memdev=a -numa node,mem=128"), "either all or no nodes"),
        (format!("{BACKENDS} -numa node,memdev=c"), "memdev=c is not found"),
        (format!("{BACKENDS} -numa node,memdev=a,mem=1"), "cannot specify both mem= and memdev="),
        ("-m 256 -numa node,mem=256,nodeid=1".to_owned(), "numa: Node ID missing: 0"),
        ("-m 256 -numa node,mem=256,nodeid=0 -numa node,nodeid=0".to_owned(), "Duplicate NUMA nodeid: 0"),
        ("-m 256 -numa node,mem=256,nodeid=128".to_owned(), "Max number of NUMA nodes reached: 128"),
        ("-m 256 -numa node,mem=256,cpus=1".to_owned(), "CPU index (1) should be smaller than maxcpus (1)"),
        ("-m 256 -numa node,mem=256,cpus=0,cpus=0-0".to_owned(), "CPU 0 is already assigned to NUMA node 0"),
        ("-m 256 -numa node,mem=256,cpus=2-1".to_owned(), "a number or a range such as 0-3"),
        (format!("{two} -numa dist,src=0,dst=2,val=20"), "Source/Destination NUMA node is missing."),
        (format!("{two} -numa dist,src=0,dst=1,val=9"), "NUMA distance (9) is invalid, it shouldn't be less than 10."),
        (format!("{two} -numa dist,src=0,dst=0,val=11"), "Local distance of node 0 should be 10."),
        (format!("{two} -numa dist,src=0,dst=0,val=10"), "The distance between node 0 and 1 is missing"),
        (format!("{two} -numa cpu,node-id=0,socket-id=0"), "-numa node,cpus="),
    ];
    for (line, part) in cases {
        let said = message(&line);

        assert!(said.contains(part), "{line}: {said}");
    }
}
