//! The certificate of a user's hub when the operator has none: made once, kept beside the users.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use sipcore::tls::SelfMade;

use crate::users;

/// Certificate and key, made now if there are none. Who made a certificate by hand keeps it.
pub fn of_this_user(domains: &[String], addresses: impl Iterator<Item = IpAddr>) -> Result<(PathBuf, PathBuf), String> {
    let place = users::usual_place()
        .ok_or("there is no HOME to keep a certificate in; name one with --tls-certificate FILE")?;
    let (certificate, key) = (place.with_file_name("hub.crt"), place.with_file_name("hub.key"));
    if certificate.exists() && key.exists() {
        return Ok((certificate, key));
    }
    let mut addresses: Vec<IpAddr> = addresses.filter(|address| !address.is_unspecified()).collect();
    addresses.sort();
    addresses.dedup();
    let made = SelfMade::new(domains, &addresses).map_err(|e| e.to_string())?;
    if let Some(directory) = key.parent() {
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|e| failed(directory, &e))?;
    }
    // The key first: a certificate without its key would be of no use.
    write(&key, &made.key)?;
    write(&certificate, &made.certificate)?;
    Ok((certificate, key))
}

fn write(path: &Path, text: &str) -> Result<(), String> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = PathBuf::from(fresh);
    let put = || {
        match std::fs::remove_file(&fresh) {
            Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&fresh)?;
        file.write_all(text.as_bytes())?;
        std::fs::rename(&fresh, path)
    };
    put().map_err(|e| failed(path, &e))
}

fn failed(path: &Path, error: &std::io::Error) -> String {
    format!("{} cannot be written: {error}", path.display())
}
