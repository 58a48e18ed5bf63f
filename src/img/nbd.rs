//! `rhea nbd`, and the name `qemu-nbd`: an image as an export for other machines.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, RwLock};

use rhea_block::filter::policy::{Policy, Rules};
use rhea_block::format::qcow2::Qcow2;
use rhea_block::graph::Node;
use rhea_block::layer::Layer;
use rhea_block::nbd::{Export, Place, Server, ShownBitmap};
use rhea_block::spec::{self, BlockdevSpec, NodeRef};

use super::args::{self, Parsed};
use super::error::{self, ImgError, chain};
use super::open::{self, Image, Want};
use super::{output, secrets, size};
use crate::chardev::FdTable;
use crate::process::{self, PidFile, Readiness};
use crate::{machine, seccomp};

mod options;

/// The port registered for NBD.
const PORT: u16 = 10809;
/// The first descriptor that systemd passes (`sd_listen_fds(3)`).
const PASSED: i32 = 3;

/// Runs the server; `program` is what messages begin with. It ends when the last client has left (`-t`: when a signal
/// comes), with 0; or with 1, when it could not start or the image could not be written back.
#[must_use]
pub fn main(program: &str, args: Vec<OsString>) -> ExitCode {
    error::set_program(program);
    match run(program, args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            e.report(program);
            ExitCode::from(e.code())
        }
    }
}

fn run(program: &str, args: Vec<OsString>) -> Result<(), ImgError> {
    let mut parsed = args::parse(args, options::OPTIONS)?;
    if parsed.has("help") {
        return output::line(options::help(program));
    }
    if parsed.has("version") {
        return output::line(format!("{program} version {}", env!("CARGO_PKG_VERSION")));
    }
    options::check(&parsed)?;
    let [name] = parsed.operands.as_slice() else {
        return Err(ImgError::Usage("Expecting one image file name".to_owned()));
    };
    // Before anything is opened: what is open by then was passed to us.
    let place = place_of(&parsed)?;
    parsed.secrets = secrets::of(&parsed)?;
    let readiness = if parsed.has("fork") { process::daemonize().map_err(failed)? } else { Readiness::foreground() };
    machine::block_signals().map_err(failed)?;
    seccomp::enable().map_err(failed)?;
    // The last to go: who sees it gone may use the image.
    let _pid_file;
    let image = open::open(name, want(&parsed)?).map_err(|error| match error {
        ImgError::Block { source, .. } => ImgError::block(format!("Failed to blk_new_open '{name}'"))(source),
        other => other,
    })?;
    let export = export(&parsed, &image)?;
    let most = parsed.get("shared").map_or(Ok(1), |text| number("shared", text))?;
    let mut server = Server::new(most).map_err(failed)?;
    server.add(export).map_err(ImgError::block("cannot serve"))?;
    server.start(place.listen().map_err(|error| ImgError::Said(error.sentence()))?).map_err(failed)?;
    let server = Arc::new(server);
    _pid_file = parsed.get("pid-file").map(|path| PidFile::create(Path::new(path))).transpose().map_err(failed)?;
    stop_on_signal(&server)?;
    readiness.ready().map_err(failed)?;
    server.wait(parsed.has("persistent"));
    server.stop();
    drop(server);
    image.close()
}

fn failed(error: impl std::error::Error + 'static) -> ImgError {
    ImgError::Said(chain(&error))
}

/// A thread that ends the server when someone asks the process to end.
fn stop_on_signal(server: &Arc<Server>) -> Result<(), ImgError> {
    let stopped = Arc::downgrade(server);
    let waiting = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let waited = machine::wait_for_signal();
        if let (Ok(()), Some(server)) = (waited, stopped.upgrade()) {
            server.stop();
        }
    });
    waiting.map(drop).map_err(ImgError::Output)
}

/// How the options want the image opened.
fn want(parsed: &Parsed) -> Result<Want<'_>, ImgError> {
    let mut want = Want::of(parsed)?;
    want.format = parsed.get("format");
    want.write = !parsed.has("read-only");
    want.warn = want.write;
    want.cache = options::cache(parsed)?;
    want.aio = options::aio(parsed)?;
    Ok(want)
}

fn number(what: &str, text: &str) -> Result<usize, ImgError> {
    text.parse().map_err(|_| ImgError::Said(format!("Invalid {what} value '{text}': a number is wanted")))
}

/// What is shown.
fn export(parsed: &Parsed, image: &Image) -> Result<Export, ImgError> {
    let node = placed(parsed, image)?;
    let chain = parsed.has("allocation-depth").then(|| Arc::new(RwLock::new(layers(&image.node))));
    let bitmaps = parsed.all("bitmap").map(|name| find_bitmap(&image.node, name));
    let discard = options::discards(parsed)?;
    let rules = Rules::new(discard, options::detect_zeroes(parsed, discard)?);
    let layer = Policy::over(node.layer().clone(), rules, false);
    Ok(Export {
        name: parsed.get("export-name").unwrap_or_default().to_owned(),
        description: parsed.get("description").map(str::to_owned),
        writable: !layer.limits().read_only,
        layer,
        several: parsed.get("shared").is_some_and(|most| most != "1"),
        write_through: !options::cache(parsed)?.write_cache(),
        bitmaps: bitmaps.collect::<Result<_, ImgError>>()?,
        chain,
    })
}

/// The image, or with `-o` what begins that far into it.
fn placed(parsed: &Parsed, image: &Image) -> Result<Arc<Node>, ImgError> {
    let Some(text) = parsed.get("offset") else { return Ok(image.node.clone()) };
    let spec = spec::Raw {
        file: NodeRef::Name(image.node.name().to_owned()),
        offset: Some(size::read("offset", text)?),
        read_only: Some(parsed.has("read-only")),
        ..spec::Raw::default()
    };
    image.graph.add(&BlockdevSpec::Raw(spec)).map_err(ImgError::block(format!("Could not open '{}'", image.name)))
}

/// The image and what is beneath it.
fn chain_of(node: &Arc<Node>) -> impl Iterator<Item = Arc<Node>> {
    node.shown_by().filter(|node| node.filtered().is_none())
}

fn layers(node: &Arc<Node>) -> Vec<Arc<dyn Layer>> {
    chain_of(node).map(|node| node.layer().clone()).collect()
}

/// The bitmap `name` of the first image in the chain that has it.
fn find_bitmap(node: &Arc<Node>, name: &str) -> Result<ShownBitmap, ImgError> {
    for node in chain_of(node) {
        let Some(image) = node.layer().as_any().downcast_ref::<Qcow2>() else { continue };
        if image.bitmaps()?.iter().any(|bitmap| bitmap.name == name) {
            let bits = image.bitmap_bits(name).map_err(ImgError::block(format!("Bitmap '{name}'")))?;
            return Ok(ShownBitmap { name: name.to_owned(), image: node.layer().clone(), bits });
        }
    }
    Err(ImgError::Said(format!("Bitmap '{name}' is not found")))
}

/// Where clients find the server.
fn place_of(parsed: &Parsed) -> Result<Place, ImgError> {
    let inet = parsed.has("port") || parsed.has("bind");
    let passed = passed_socket()?;
    match (parsed.get("socket"), passed) {
        (Some(_), _) if inet => Err(ImgError::Said("--socket and --port or --bind are mutually exclusive".to_owned())),
        (Some(_), Some(_)) => Err(ImgError::Said("--socket and socket activation exclude each other".to_owned())),
        (None, Some(_)) if inet => {
            Err(ImgError::Said("--port and --bind mean nothing with socket activation".to_owned()))
        }
        (Some(path), None) => Ok(Place::Unix(path.to_owned())),
        (None, Some(fd)) => Ok(Place::Passed(fd)),
        (None, None) => {
            let port = parsed.get("port").map_or(Ok(PORT), |text| {
                text.parse().map_err(|_| ImgError::Said(format!("Invalid port number '{text}'")))
            })?;
            Ok(Place::Inet(parsed.get("bind").unwrap_or("0.0.0.0").to_owned(), port))
        }
    }
}

/// The socket that who started us listens on for us.
fn passed_socket() -> Result<Option<std::os::fd::OwnedFd>, ImgError> {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    if variable("LISTEN_PID") != Some(std::process::id()) {
        return Ok(None);
    }
    match variable("LISTEN_FDS") {
        None | Some(0) => Ok(None),
        Some(1) => FdTable::new().claim(PASSED).map(Some).map_err(|e| ImgError::Said(e.to_string())),
        Some(_) => Err(ImgError::Said("socket activation with more than one socket is not supported".to_owned())),
    }
}
