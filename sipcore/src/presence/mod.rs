//! Presence: what programs publish of their sockets, and who is told (RFC 3856, 3863, 3903, 4662, 6665). Documents and machines; the messages are
//! written by the user agent and by the hub.

pub(crate) mod event;
pub(crate) mod lists;
pub(crate) mod multipart;
pub(crate) mod notifier;
mod pidf;
pub(crate) mod publication;
pub(crate) mod reginfo;
pub(crate) mod subscription;
mod watchers;
pub(crate) mod xml;

pub use lists::members;
pub use multipart::MultipartError;
pub use pidf::{CONTENT_TYPE, Document, MAX_NOTE, PidfError, Tuple};
pub use watchers::Watchers;
pub use xml::XmlError;

pub(crate) use pidf::{PIDF, check};
pub(crate) use watchers::OPTION as WATCHERS_OPTION;

use crate::message::{ContentType, Uri};
use bytes::Bytes;

/// What a notification changes in what is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// Whoever is not named is not there any more.
    pub full: bool,
    /// Counts the notifications about a list (RFC 4662 5.2).
    pub version: Option<u32>,
    /// Who is there now, or with `None`, not any more. A resource is as the server spells it.
    pub changes: Vec<(Uri, Option<Document>)>,
}

/// Why the body of a notification is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotificationError {
    /// Of a media type that is not known.
    #[error("of an unknown media type")]
    Type,
    /// Not a presence document or list.
    #[error(transparent)]
    Document(#[from] PidfError),
    /// Its parts cannot be told apart.
    #[error(transparent)]
    Multipart(#[from] MultipartError),
    /// What its parts say does not fit together.
    #[error("{0}")]
    Shape(&'static str),
}

impl Update {
    /// Reads the body of a NOTIFY about `resource`: one presence document, or a list (RFC 4662 5).
    pub fn parse(resource: &Uri, content_type: &str, body: &Bytes) -> Result<Update, NotificationError> {
        let kind = ContentType::parse(content_type.as_bytes()).map_err(|_| NotificationError::Type)?;
        if kind.is("application", "pidf+xml") {
            let document = Document::parse(body)?;
            return Ok(Update { full: true, version: None, changes: vec![(resource.clone(), Some(document))] });
        }
        if !kind.is("multipart", "related") {
            return Err(NotificationError::Type);
        }
        let parts = multipart::parse(&kind, body)?;
        let meta = parts.iter().find(|part| part.is("application", "rlmi+xml"));
        let meta = meta.ok_or(NotificationError::Shape("no meta-information about the list"))?;
        let list = lists::ListState::parse(&meta.body)?;
        let mut changes = Vec::new();
        for lists::Resource { uri, instance } in list.resources {
            let Ok(uri) = uri.parse::<Uri>() else { continue };
            let change = match instance {
                // Nothing is known of it yet.
                None => continue,
                Some(instance) if instance.state == "terminated" => None,
                // Its state comes with a later notification.
                Some(lists::Instance { cid: None, .. }) => continue,
                Some(lists::Instance { cid: Some(cid), .. }) => {
                    let part = parts.iter().find(|part| part.id().as_deref() == Some(cid.as_str()));
                    let part = part.ok_or(NotificationError::Shape("a part that is named is missing"))?;
                    Some(Document::parse(&part.body)?)
                }
            };
            changes.push((uri, change));
        }
        Ok(Update { full: list.full, version: Some(list.version), changes })
    }
}
