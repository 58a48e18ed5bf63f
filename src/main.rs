//! The program: what it does follows from the name it was called by and its first argument.

use std::env;
use std::error::Error;
use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use clap::Parser;
use rhea::cli::{self, Invocation};
use rhea::ctl::{self, CtlArgs};
use rhea::img;
use rhea::machine::{outlive_file_limit, start};
use rhea::sentence::{sentence, to_stderr};

fn main() -> ExitCode {
    let mut args = env::args_os();
    let program = program_name(args.next().as_deref());
    let mut args: Vec<OsString> = args.collect();
    if let Err(error) = outlive_file_limit() {
        return fail(&program, &error);
    }
    let verb = args.first().and_then(|verb| verb.to_str()).unwrap_or_default();
    match (program.as_str(), verb) {
        (IMAGE_TOOL, _) => img::main(IMAGE_TOOL, args),
        (NBD_SERVER, _) => img::nbd::main(NBD_SERVER, args),
        (_, "img") => img::main("rhea img", args.split_off(1)),
        (_, "nbd") => img::nbd::main("rhea nbd", args.split_off(1)),
        (_, "ctl") => control(&args),
        _ => machine(&program, args),
    }
}

/// The name under which the program is the image tool and nothing else.
const IMAGE_TOOL: &str = "qemu-img";

/// The name under which it is the NBD server.
const NBD_SERVER: &str = "qemu-nbd";

/// The last part of the path that the program was called by.
fn program_name(path: Option<&OsStr>) -> String {
    let name = path.and_then(|path| Path::new(path).file_name());
    name.map_or_else(|| "rhea".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// Runs a machine, or prints what was asked for.
fn machine(program: &str, args: Vec<OsString>) -> ExitCode {
    match cli::parse(program, args) {
        Ok(Invocation::Run(spec)) => match start::run(program, &spec) {
            Ok(status) => ExitCode::from(status),
            Err(error) => fail(program, &error),
        },
        Ok(Invocation::Print(text)) => print(&text),
        Ok(Invocation::Tell(error)) => {
            tell(program, &error);
            ExitCode::SUCCESS
        }
        Err(error) => fail(program, &error),
    }
}

/// Speaks with a running machine.
fn control(args: &[OsString]) -> ExitCode {
    let args = CtlArgs::parse_from(args);
    match ctl::run(&args, &mut io::stdin().lock(), &mut io::stdout().lock()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail("rhea ctl", &error),
    }
}

/// Prints; a reader that has gone away (`rhea -help | head`) is no error.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => fail("rhea", &error),
        _ => ExitCode::SUCCESS,
    }
}

fn fail(program: &str, error: &(dyn Error + 'static)) -> ExitCode {
    tell(program, error);
    ExitCode::FAILURE
}

/// Says why in one sentence, with the causes behind it.
fn tell(program: &str, error: &(dyn Error + 'static)) {
    to_stderr(format!("{program}: {}", sentence(error)));
    if let Some(hint) = rhea_block::BlockError::hint_of(error) {
        to_stderr(hint);
    }
}
