use super::*;
use crate::qmp::command::args::{BlockResize, NodeName};

fn resize() -> Command {
    Command::BlockResize(BlockResize { device: None, node_name: None, size: 512 })
}

#[test]
fn cont_is_refused_where_only_a_reset_helps() {
    for state in [RunState::Shutdown, RunState::InternalError] {
        assert_eq!(accept(state, &Command::Cont), Decision::Refuse("Resetting the Virtual Machine is required"));
    }
}

#[test]
fn cont_is_accepted_where_the_machine_only_stands_still() {
    for state in [RunState::Prelaunch, RunState::Paused, RunState::IoError, RunState::GuestPanicked, RunState::Running]
    {
        assert_eq!(accept(state, &Command::Cont), Decision::Accept, "{state}");
    }
}

#[test]
fn questions_reset_and_quit_are_accepted_in_every_state() {
    let always =
        [Command::QueryStatus, Command::QueryBlock, Command::SystemReset, Command::SystemPowerdown, Command::Quit];
    for state in RunState::ALL {
        for command in &always {
            assert_eq!(accept(*state, command), Decision::Accept, "{state} {}", command.name());
        }
    }
}

#[test]
fn stop_is_accepted_when_already_stopped() {
    assert_eq!(accept(RunState::Paused, &Command::Stop), Decision::Accept);
}

#[test]
fn devices_hold_still_while_the_machine_moves() {
    let remove = Command::BlockdevDel(NodeName { node_name: "n0".into() });
    for state in [RunState::InMigrate, RunState::FinishMigrate, RunState::SaveVm, RunState::RestoreVm] {
        assert!(matches!(accept(state, &resize()), Decision::Refuse(_)), "{state}");
        assert!(matches!(accept(state, &remove), Decision::Refuse(_)), "{state}");
    }
}

#[test]
fn devices_change_whether_the_guest_runs_or_not() {
    for state in [RunState::Running, RunState::Paused, RunState::Prelaunch, RunState::Shutdown] {
        assert_eq!(accept(state, &resize()), Decision::Accept, "{state}");
    }
}

#[test]
fn only_a_sleeping_guest_is_woken() {
    assert_eq!(accept(RunState::Suspended, &Command::SystemWakeup), Decision::Accept);
    assert_eq!(
        accept(RunState::Running, &Command::SystemWakeup),
        Decision::Refuse("Unable to wake up: guest is not in suspended state")
    );
}

#[test]
fn no_state_can_be_stopped_or_continued_during_a_snapshot() {
    for state in [RunState::SaveVm, RunState::RestoreVm] {
        assert!(matches!(accept(state, &Command::Stop), Decision::Refuse(_)));
        assert!(matches!(accept(state, &Command::Cont), Decision::Refuse(_)));
    }
}
