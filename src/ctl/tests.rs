use std::os::unix::net::UnixListener;
use std::thread::JoinHandle;

use super::*;

/// A machine that says these lines, the first at once and the others after a line of the client each; gives back what
/// the client said.
fn machine(path: &std::path::Path, says: &'static [&'static str]) -> JoinHandle<Vec<String>> {
    let listener = UnixListener::bind(path).unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut lines = io::BufReader::new(stream.try_clone().unwrap()).lines();
        let mut heard = Vec::new();
        for (number, text) in says.iter().enumerate() {
            if number > 0 {
                heard.push(lines.next().unwrap().unwrap());
            }
            stream.write_all(format!("{text}\r\n").as_bytes()).unwrap();
        }
        heard
    })
}

fn ctl(words: &[&str], input: &str, says: &'static [&'static str]) -> (Result<(), CtlError>, String, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("s");
    let machine = machine(&path, says);
    let path = path.to_str().unwrap();
    let words = words.iter().map(|word| if *word == "PATH" { path } else { word });
    let args = CtlArgs::try_parse_from(["rhea ctl"].into_iter().chain(words)).unwrap();
    let mut out = Vec::new();
    let result = run(&args, &mut input.as_bytes(), &mut out);
    (result, String::from_utf8(out).unwrap(), machine.join().unwrap())
}

const GREETING: &str = "{\"QMP\": {}}";
const EMPTY: &str = "{\"return\": {}}";

#[test]
fn answer_is_printed_pretty_and_events_are_not() {
    let answer = "{\"event\": \"STOP\"}\r\n{\"return\": {\"running\": true}}";
    let (result, out, heard) = ctl(&["PATH", "query-status"], "", Box::leak(Box::new([GREETING, EMPTY, answer])));
    result.unwrap();
    assert_eq!(out, "{\n  \"running\": true\n}\n");
    assert_eq!(heard, ["{\"execute\":\"qmp_capabilities\"}", "{\"execute\":\"query-status\"}"]);
}

#[test]
fn words_become_typed_and_nested_arguments() {
    let words = ["PATH", "x", "a=5", "b=text", "c.d=true", "c.e=\"7\"", "{\"f\": [1]}"];
    let (result, _, heard) = ctl(&words, "", &[GREETING, EMPTY, EMPTY]);
    result.unwrap();
    let expected = r#"{"execute":"x","arguments":{"a":5,"b":"text","c":{"d":true,"e":"7"},"f":[1]}}"#;
    assert_eq!(heard[1], expected);
}

#[test]
fn refusal_is_an_error_that_names_class_and_reason() {
    let refusal = "{\"error\": {\"class\": \"CommandNotFound\", \"desc\": \"The command x has not been found\"}}";
    let (result, out, _) = ctl(&["PATH", "x"], "", Box::leak(Box::new([GREETING, EMPTY, refusal])));
    assert_eq!(result.unwrap_err().to_string(), "CommandNotFound: The command x has not been found");
    assert_eq!(out, "");
}

#[test]
fn lines_of_standard_input_are_commands() {
    let input = "stop\n\nblock_resize device=d size=512\n{\"execute\": \"cont\"}\n";
    let (result, _, heard) = ctl(&["PATH", "-"], input, &[GREETING, EMPTY, EMPTY, EMPTY, EMPTY]);
    result.unwrap();
    assert_eq!(heard[1], "{\"execute\":\"stop\"}");
    assert_eq!(heard[2], "{\"execute\":\"block_resize\",\"arguments\":{\"device\":\"d\",\"size\":512}}");
    assert_eq!(heard[3], "{\"execute\":\"cont\"}");
}

#[test]
fn events_are_followed_to_the_end() {
    let says = Box::leak(Box::new([GREETING, "{\"return\": {}}\r\n{\"event\": \"STOP\"}\r\n{\"event\": \"RESUME\"}"]));
    let (result, out, _) = ctl(&["--events", "PATH"], "", says);
    result.unwrap();
    assert_eq!(out, "{\"event\":\"STOP\"}\n{\"event\":\"RESUME\"}\n");
}

#[test]
fn text_is_printed_as_it_is() {
    let says = Box::leak(Box::new([GREETING, EMPTY, "{\"return\": \"VM status: running\\r\\n\"}"]));
    let (result, out, _) = ctl(&["PATH", "human-monitor-command", "command-line=info status"], "", says);
    result.unwrap();
    assert_eq!(out, "VM status: running\n");
}

#[test]
fn socket_of_something_else_and_no_socket_are_told_apart() {
    let (result, ..) = ctl(&["PATH", "x"], "", &["SSH-2.0-x"]);
    assert!(matches!(result, Err(CtlError::NotQmp(said)) if said == "SSH-2.0-x"));
    let args = CtlArgs::try_parse_from(["rhea ctl", "/nowhere", "x"]).unwrap();
    let result = run(&args, &mut "".as_bytes(), &mut Vec::new());
    assert_eq!(result.unwrap_err().to_string(), "cannot connect to /nowhere");
}

#[test]
fn argument_without_a_form_is_refused() {
    let (result, ..) = ctl(&["PATH", "x", "word"], "", &[GREETING, EMPTY]);
    assert!(matches!(result, Err(CtlError::Argument(word)) if word == "word"));
}
