//! Certificates and keys out of PEM files.

use super::TlsError;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The certificates of a file, at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |why: String| TlsError::File { path: path.to_owned(), why };
    let read = |error: pem::Error| failed(explain(&error));
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(read)?.collect();
    let found = found.map_err(read)?;
    if found.is_empty() {
        return Err(failed("it has no certificate in PEM form (-----BEGIN CERTIFICATE-----)".into()));
    }
    Ok(found)
}

/// The private key of a file that only its owner may read.
pub(super) fn key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let failed = |why: String| TlsError::File { path: path.to_owned(), why };
    let mode = std::fs::metadata(path).map_err(|error| failed(error.to_string()))?.mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(TlsError::Exposed { path: path.to_owned(), mode });
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| failed(explain(&error)))
}

fn explain(error: &pem::Error) -> String {
    match error {
        pem::Error::NoItemsFound => "it has no private key in PEM form".into(),
        pem::Error::Io(error) => error.to_string(),
        other => format!("it is no PEM file: {other}"),
    }
}
