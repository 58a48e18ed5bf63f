use super::*;

fn parsed(name: &str) -> NbdName {
    NbdName::parse(name).unwrap().unwrap()
}

fn inet(host: &str, port: &str, export: &str) -> NbdName {
    NbdName { address: Address::Inet(host.into(), port.into()), export: export.into() }
}

fn unix(path: &str, export: &str) -> NbdName {
    NbdName { address: Address::Unix(path.into()), export: export.into() }
}

#[test]
fn every_way_to_name_an_export_is_read() {
    assert_eq!(parsed("nbd://example.org"), inet("example.org", "", ""));
    assert_eq!(parsed("nbd://example.org:9/a%20b/c"), inet("example.org", "9", "a b/c"));
    assert_eq!(parsed("nbd://[::1]:10809/x"), inet("::1", "10809", "x"));
    assert_eq!(parsed("nbd+unix:///disk?socket=/run/n.sock"), unix("/run/n.sock", "disk"));
    assert_eq!(parsed("nbd:unix:/run/n.sock:exportname=a:b"), unix("/run/n.sock", "a:b"));
    assert_eq!(parsed("nbd:localhost:10809"), inet("localhost", "10809", ""));
}

#[test]
fn other_names_are_left_to_others() {
    assert_eq!(NbdName::parse("/tmp/nbd:x").unwrap(), None);
    assert_eq!(NbdName::parse("file:nbd").unwrap(), None);
}

#[test]
fn names_that_mean_nothing_are_refused() {
    for name in ["nbd:", "nbd:host", "nbd://::1", "nbd://h/%4", "nbd+unix:///x", "nbd+unix:///?socket=", "nbds://h"] {
        assert!(NbdName::parse(name).is_err(), "{name}");
    }
}
