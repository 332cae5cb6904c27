//! Bytes that commands read and print: files, standard input, and results in the requested format.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use casemate_api::limits::BODY_USE_MAX_BYTES;
use clap::ValueEnum;
use zeroize::Zeroizing;

use crate::exit::{Failure, local};
use crate::profile::Context;
use crate::render;

/// How bytes are printed. With `--json` they are base64.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// The bytes themselves
    Raw,
    /// One line of base64
    #[default]
    Base64,
    /// One line of hex
    Hex,
}

/// Prints bytes, in JSON as the member `name`.
pub(crate) fn show(context: &Context, name: &str, bytes: &[u8], format: Format) -> Result<(), Failure> {
    if context.out.json {
        return context.out.text(name, &Zeroizing::new(BASE64_STANDARD.encode(bytes)));
    }
    match format {
        Format::Raw => render::raw(bytes),
        Format::Base64 => context.out.text(name, &Zeroizing::new(BASE64_STANDARD.encode(bytes))),
        Format::Hex => context.out.text(name, &Zeroizing::new(render::hex(bytes))),
    }
}

/// Content up to this size is read without moving the buffer, so that no copy is left unwiped.
const READ_CAPACITY: usize = 1 << 20;

/// The content of a file, or of standard input for `-`, up to the size that an HSM accepts.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let limit = BODY_USE_MAX_BYTES / 4 * 3;
    let mut bytes = Zeroizing::new(Vec::with_capacity(READ_CAPACITY));
    open(path)?
        .take(limit as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(local(format_args!("{} cannot be read", path.display())))?;
    if bytes.len() > limit {
        let path = path.display();
        return Err(Failure::Usage(format!("{path} is larger than {limit} bytes, the most that an HSM accepts.")));
    }
    Ok(bytes)
}

pub(crate) fn open(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        return Ok(Box::new(io::stdin().lock()));
    }
    let file = File::open(path).map_err(local(format_args!("{} cannot be read", path.display())))?;
    Ok(Box::new(file))
}
