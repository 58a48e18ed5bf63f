//! The server's half of the newstyle handshake.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use super::Exports;
use super::export::{Context, Export};
use crate::nbd::proto::{
    FIXED_NEWSTYLE, MOST_PAYLOAD, MOST_STRING, NO_ZEROES, OPTION_MAGIC, OPTION_REPLY_MAGIC, SERVER_MAGIC, broken, flag,
    info, option, put_string, read_bytes, read_string, read_u16, read_u32, read_u64, reply,
};
use crate::nbd::socket::{Socket, Timed};

/// How long a client may take for the whole handshake.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest option, in bytes; longer ones end the connection.
const MOST_OPTION: usize = 64 << 10;
/// Most queries in one option about contexts.
const MOST_QUERIES: u32 = 64;
/// The best size of requests, in bytes.
const PREFERRED: u32 = 4096;

/// A client that knows what it wants.
pub(super) struct Agreed {
    pub(super) export: Arc<Export>,
    pub(super) structured: bool,
    /// The contexts chosen; their numbers are their places here.
    pub(super) contexts: Vec<Context>,
}

/// One handshake.
struct Talk<'a> {
    socket: Timed<'a>,
    exports: &'a Exports,
    no_zeroes: bool,
    structured: bool,
    /// What `SET_META_CONTEXT` chose, and for which export.
    chosen: Option<(Arc<Export>, Vec<Context>)>,
}

/// Negotiates; `None` when the client only looked and left.
pub(super) fn negotiate(socket: &Socket, exports: &Exports) -> io::Result<Option<Agreed>> {
    let timed = Timed::within(PATIENCE, socket);
    let agreed = Talk { socket: timed, exports, no_zeroes: false, structured: false, chosen: None }.hold()?;
    socket.set_patience(None)?;
    Ok(agreed)
}

impl Talk<'_> {
    fn hold(mut self) -> io::Result<Option<Agreed>> {
        let mut greeting = SERVER_MAGIC.to_be_bytes().to_vec();
        greeting.extend(OPTION_MAGIC.to_be_bytes());
        greeting.extend((FIXED_NEWSTYLE | NO_ZEROES).to_be_bytes());
        self.socket.write_all(&greeting)?;
        let flags = read_u32(&mut self.socket)?;
        if flags & !u32::from(FIXED_NEWSTYLE | NO_ZEROES) != 0 {
            return Err(broken("the client's flags are unknown"));
        }
        // "Newstyle negotiation": who does not know of replies to options may only name an export.
        let knows_replies = flags & u32::from(FIXED_NEWSTYLE) != 0;
        self.no_zeroes = flags & u32::from(NO_ZEROES) != 0;
        loop {
            if read_u64(&mut self.socket)? != OPTION_MAGIC {
                return Err(broken("an option does not begin with its magic number"));
            }
            let which = read_u32(&mut self.socket)?;
            let len = read_u32(&mut self.socket)?;
            let payload = read_bytes(&mut self.socket, len, MOST_OPTION)?;
            match which {
                option::EXPORT_NAME => return self.export_name(&payload).map(Some),
                _ if !knows_replies => return Err(broken("an option whose reply the client says it does not know")),
                option::ABORT => {
                    // The client may be gone already.
                    let _ = self.answer(which, reply::ACK, &[]);
                    return Ok(None);
                }
                option::GO => {
                    if let Some(export) = self.describe(which, &payload)? {
                        return Ok(Some(self.agreed(export)));
                    }
                }
                option::INFO => drop(self.describe(which, &payload)?),
                option::LIST => self.list(&payload)?,
                option::STRUCTURED_REPLY if payload.is_empty() => {
                    self.structured = true;
                    self.answer(which, reply::ACK, &[])?;
                }
                option::STRUCTURED_REPLY => self.refuse(which, reply::ERR_INVALID, "the option has no data")?,
                option::LIST_META_CONTEXT | option::SET_META_CONTEXT => self.contexts(which, &payload)?,
                _ => self.refuse(which, reply::ERR_UNSUP, "unknown option")?,
            }
        }
    }

    fn agreed(self, export: Arc<Export>) -> Agreed {
        let contexts = match self.chosen {
            Some((chosen, contexts)) if Arc::ptr_eq(&chosen, &export) => contexts,
            _ => Vec::new(),
        };
        Agreed { export, structured: self.structured, contexts }
    }

    fn answer(&mut self, option: u32, kind: u32, payload: &[u8]) -> io::Result<()> {
        let mut bytes = OPTION_REPLY_MAGIC.to_be_bytes().to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(kind.to_be_bytes());
        bytes.extend((payload.len() as u32).to_be_bytes());
        bytes.extend(payload);
        self.socket.write_all(&bytes)
    }

    fn refuse(&mut self, option: u32, kind: u32, why: &str) -> io::Result<()> {
        self.answer(option, kind, why.as_bytes())
    }

    fn flags(&self, export: &Export) -> u16 {
        export.flags() | if self.structured { flag::SEND_DF } else { 0 }
    }

    /// "NBD_OPT_EXPORT_NAME": no way to say no but to hang up.
    fn export_name(mut self, payload: &[u8]) -> io::Result<Agreed> {
        let name = std::str::from_utf8(payload).map_err(|_| broken("a name that is not UTF-8"))?;
        let export = self.exports.get(name).ok_or_else(|| broken(format!("the client wants '{name}'")))?;
        let mut bytes = export.size().to_be_bytes().to_vec();
        bytes.extend(self.flags(&export).to_be_bytes());
        if !self.no_zeroes {
            bytes.extend([0; 124]);
        }
        self.socket.write_all(&bytes)?;
        Ok(self.agreed(export))
    }

    /// "NBD_OPT_INFO" and "NBD_OPT_GO".
    fn describe(&mut self, option: u32, mut payload: &[u8]) -> io::Result<Option<Arc<Export>>> {
        let asked = read_string(&mut payload).and_then(|name| {
            let count = read_u16(&mut payload)?;
            let asked = (0..count).map(|_| read_u16(&mut payload)).collect::<io::Result<Vec<u16>>>()?;
            if payload.is_empty() { Ok((name, asked)) } else { Err(broken("more than was announced")) }
        });
        let Ok((name, asked)) = asked else {
            self.refuse(option, reply::ERR_INVALID, "the option's data make no sense")?;
            return Ok(None);
        };
        let Some(export) = self.exports.get(&name) else {
            self.refuse(option, reply::ERR_UNKNOWN, &format!("export '{name}' not present"))?;
            return Ok(None);
        };
        if asked.contains(&info::NAME) {
            let bytes = [&info::NAME.to_be_bytes(), export.name.as_bytes()].concat();
            self.answer(option, reply::INFO, &bytes)?;
        }
        if let Some(description) = &export.description {
            let bytes = [&info::DESCRIPTION.to_be_bytes(), description.as_bytes()].concat();
            self.answer(option, reply::INFO, &bytes)?;
        }
        let mut sizes = info::BLOCK_SIZE.to_be_bytes().to_vec();
        [1, PREFERRED, MOST_PAYLOAD].iter().for_each(|size| sizes.extend(size.to_be_bytes()));
        self.answer(option, reply::INFO, &sizes)?;
        let mut facts = info::EXPORT.to_be_bytes().to_vec();
        facts.extend(export.size().to_be_bytes());
        facts.extend(self.flags(&export).to_be_bytes());
        self.answer(option, reply::INFO, &facts)?;
        self.answer(option, reply::ACK, &[])?;
        Ok(Some(export))
    }

    fn list(&mut self, payload: &[u8]) -> io::Result<()> {
        if !payload.is_empty() {
            return self.refuse(option::LIST, reply::ERR_INVALID, "the option has no data");
        }
        for export in self.exports.all() {
            let mut bytes = Vec::new();
            put_string(&mut bytes, &export.name);
            bytes.extend(export.description.as_deref().unwrap_or_default().as_bytes());
            self.answer(option::LIST, reply::SERVER, &bytes)?;
        }
        self.answer(option::LIST, reply::ACK, &[])
    }

    /// "NBD_OPT_LIST_META_CONTEXT" and "NBD_OPT_SET_META_CONTEXT".
    fn contexts(&mut self, option: u32, mut payload: &[u8]) -> io::Result<()> {
        let setting = option == option::SET_META_CONTEXT;
        if setting {
            self.chosen = None;
        }
        let asked = read_string(&mut payload).and_then(|name| {
            let count = read_u32(&mut payload)?;
            if count > MOST_QUERIES {
                return Err(broken("too many queries"));
            }
            let queries = (0..count).map(|_| read_string(&mut payload)).collect::<io::Result<Vec<String>>>()?;
            if payload.is_empty() { Ok((name, queries)) } else { Err(broken("more than was announced")) }
        });
        let Ok((name, queries)) = asked else {
            return self.refuse(option, reply::ERR_INVALID, "the option's data make no sense");
        };
        if !self.structured {
            return self.refuse(option, reply::ERR_INVALID, "structured replies must be agreed on first");
        }
        let Some(export) = self.exports.get(&name) else {
            return self.refuse(option, reply::ERR_UNKNOWN, &format!("export '{name}' not present"));
        };
        let all = export.contexts();
        let found = all.into_iter().filter(|(_, name)| queries.iter().any(|query| matches(query, name, !setting)));
        // "an empty list of queries" lists everything, and sets nothing.
        let found: Vec<_> = if queries.is_empty() && !setting { export.contexts() } else { found.collect() };
        for (number, (_, name)) in (0u32..).zip(&found) {
            let number = if setting { number } else { 0 };
            self.answer(option, reply::META_CONTEXT, &[&number.to_be_bytes(), name.as_bytes()].concat())?;
        }
        if setting {
            self.chosen = Some((export, found.into_iter().map(|(context, _)| context).collect()));
        }
        self.answer(option, reply::ACK, &[])
    }
}

/// A query is a name, or when listing a name's beginning that ends with a colon (`qemu:`, `qemu:dirty-bitmap:`).
fn matches(query: &str, name: &str, listing: bool) -> bool {
    query == name || (listing && query.ends_with(':') && name.starts_with(query))
}

/// Whether clients can ask for an export of this name.
pub(super) fn is_short(text: &str) -> bool {
    text.len() <= MOST_STRING
}
