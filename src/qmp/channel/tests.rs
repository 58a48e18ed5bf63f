use std::sync::mpsc::{Sender, channel};

use serde_json::json;

use super::*;
use crate::qmp::RunState;

struct Fixed(RunState);

impl Target for Fixed {
    fn run_state(&self) -> RunState {
        self.0
    }

    fn execute(&mut self, command: Command) -> Answer {
        Ok(json!(command.name()))
    }

    fn inspect(&mut self, _: Inspect) -> Result<Inspection, QmpError> {
        Ok(Inspection::Text(String::new()))
    }
}

fn reply_to(answers: &Sender<Answer>) -> Reply {
    let answers = answers.clone();
    Reply::new(move |answer| answers.send(answer).unwrap())
}

/// A request of a monitor that has no character devices.
fn request(command: Command, answers: &Sender<Answer>) -> Request {
    let chardevs = crate::chardev::Chardevs::new(Arc::default(), Arc::new(|_| {})).unwrap();
    let services = Arc::new(Services::new(crate::qmp::command::Offer::all(), "test", Arc::new(chardevs)));
    services.chardevs().shut_down();
    Request::new(command, reply_to(answers), services)
}

#[test]
fn request_is_served_and_answered_once() {
    let (sender, queue) = request_channel().unwrap();
    let (answers, answered) = channel();
    sender.send(request(Command::QueryStatus, &answers));

    queue.take().unwrap().serve(&mut Fixed(RunState::Running));

    assert_eq!(answered.try_recv().unwrap(), Ok(json!("query-status")));
    assert!(answered.try_recv().is_err());
    assert!(queue.take().is_none());
}

#[test]
fn refused_command_does_not_reach_the_target() {
    let (answers, answered) = channel();
    let request = request(Command::Cont, &answers);

    request.serve(&mut Fixed(RunState::Shutdown));

    assert_eq!(answered.try_recv().unwrap(), Err(QmpError::generic("Resetting the Virtual Machine is required")));
}

#[test]
fn dropped_reply_answers_with_an_error() {
    let (answers, answered) = channel();

    drop(reply_to(&answers));

    assert_eq!(answered.try_recv().unwrap().unwrap_err().class, crate::qmp::ErrorClass::GenericError);
}

#[test]
fn request_to_an_ended_main_thread_is_answered_with_an_error() {
    let (sender, queue) = request_channel().unwrap();
    drop(queue);
    let (answers, answered) = channel();

    sender.send(request(Command::Stop, &answers));

    assert!(answered.try_recv().unwrap().is_err());
}

#[test]
fn request_beyond_the_queue_is_answered_with_an_error_and_the_others_are_kept() {
    let (sender, queue) = request_channel().unwrap();
    let (answers, answered) = channel();
    for _ in 0..=QUEUE_LENGTH {
        sender.send(request(Command::Stop, &answers));
    }

    assert_eq!(answered.try_iter().count(), 1);
    assert_eq!(std::iter::from_fn(|| queue.take()).count(), QUEUE_LENGTH);
}
