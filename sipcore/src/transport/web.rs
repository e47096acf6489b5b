//! SIP over WebSocket at a server (RFC 7118): one WebSocket message, one SIP message.

use super::connection::Link;
use super::driver::Core;
use super::layered::{WRITE_LIMIT, failed};
use super::tap::count;
use super::{Machine, Sign};
use crate::message::Message;
use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use std::io;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;
use tokio_tungstenite::accept_hdr_async_with_config;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message as Frame};

/// The longest message: what the stream parser takes of a header section, and a body.
const MAX_MESSAGE: usize = 320 * 1024;
/// The WebSocket subprotocol (RFC 7118 4.1).
const SUBPROTOCOL: &str = "sip";

/// Runs a connection to its end.
pub(super) async fn exchange<M: Machine, S>(core: &Arc<Core<M>>, mut link: Link<'_>, stream: S) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(0)
        .max_write_buffer_size(4 * 1024 * 1024)
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE));
    #[allow(clippy::result_large_err)] // the shape that the library asks for
    let admit = |request: &Request, response: Response| admit(request.headers(), response, &core.secrets.origins);
    let shaken = timeout(core.patience, accept_hdr_async_with_config(stream, admit, Some(config))).await;
    let shaken = shaken.map_err(io::Error::from).and_then(|shaken| shaken.map_err(io::Error::other));
    let mut socket = shaken.inspect_err(|_| failed(core))?;
    let connection = link.connection;
    loop {
        while let Some(bytes) = connection.take()? {
            timeout(WRITE_LIMIT, socket.send(frame(bytes))).await?.map_err(io::Error::other)?;
        }
        let next = tokio::select! {
            next = link.patience.wait(core, socket.next()) => next?,
            () = connection.woken() => continue,
        };
        match next {
            Some(Ok(Frame::Text(text))) => receive(core, &link, text.into()),
            Some(Ok(Frame::Binary(bytes))) => receive(core, &link, bytes),
            // The library has answered.
            Some(Ok(Frame::Ping(_) | Frame::Pong(_) | Frame::Frame(_))) => {}
            Some(Ok(Frame::Close(_))) | None => return Ok(()),
            Some(Err(tungstenite::Error::ConnectionClosed)) => return Ok(()),
            Some(Err(error)) => {
                count(&core.cells.garbage);
                return Err(io::Error::other(error));
            }
        }
        link.patience.heard(true);
    }
}

fn receive<M: Machine>(core: &Arc<Core<M>>, link: &Link<'_>, bytes: Bytes) {
    match bytes.as_ref() {
        b"\r\n\r\n" => {
            link.connection.send(Bytes::from_static(b"\r\n"));
        }
        b"\r\n" => core.with(|machine, now| machine.handle_sign(now, link.flow, Sign::Pong)),
        _ => match Message::parse_datagram(bytes) {
            Ok(message) => core.receive(link.flow, link.local, message),
            Err(_) => count(&core.cells.garbage),
        },
    }
}

/// Text as far as it is text: what a page in a browser reads without asking.
fn frame(bytes: Bytes) -> Frame {
    match bytes.clone().try_into() {
        Ok(text) => Frame::Text(text),
        Err(_) => Frame::Binary(bytes),
    }
}

/// Only those who speak SIP, and of web pages only those whose site may: a browser lets every page that its user looks at connect to this
/// machine (RFC 6455 10.2).
#[allow(clippy::result_large_err)]
fn admit(headers: &HeaderMap, mut response: Response, origins: &[String]) -> Result<Response, ErrorResponse> {
    let offered = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let mut names = offered.iter().flat_map(|value| value.to_str().unwrap_or_default().split(','));
    if !names.any(|name| name.trim().eq_ignore_ascii_case(SUBPROTOCOL)) {
        return Err(refusal(StatusCode::BAD_REQUEST, "the WebSocket subprotocol is not sip (RFC 7118)\n"));
    }
    if let Some(origin) = headers.get(header::ORIGIN)
        && !origins.iter().any(|known| origin.to_str().is_ok_and(|origin| origin.eq_ignore_ascii_case(known)))
    {
        return Err(refusal(StatusCode::FORBIDDEN, "pages of this origin may not connect\n"));
    }
    response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    Ok(response)
}

fn refusal(status: StatusCode, words: &str) -> ErrorResponse {
    let mut response = ErrorResponse::new(Some(words.to_owned()));
    *response.status_mut() = status;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(headers: &[(&'static str, &'static str)], origins: &[&str]) -> u16 {
        let headers: HeaderMap =
            headers.iter().map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value))).collect();
        let origins: Vec<String> = origins.iter().map(|origin| origin.to_string()).collect();
        match admit(&headers, Response::new(()), &origins) {
            Ok(response) => {
                assert_eq!(response.headers()["sec-websocket-protocol"], "sip");
                101
            }
            Err(response) => response.status().as_u16(),
        }
    }

    #[test]
    fn pages_of_foreign_sites_are_kept_out() {
        const SIP: (&str, &str) = ("sec-websocket-protocol", "chat, sip");
        assert_eq!(status(&[SIP], &[]), 101, "what is no browser has no origin");
        assert_eq!(status(&[("sec-websocket-protocol", "xmpp")], &[]), 400);
        assert_eq!(status(&[], &[]), 400);
        assert_eq!(status(&[SIP, ("origin", "https://evil.example")], &[]), 403);
        assert_eq!(status(&[SIP, ("origin", "null")], &["https://good.example"]), 403);
        assert_eq!(status(&[SIP, ("origin", "https://good.example.evil")], &["https://good.example"]), 403);
        assert_eq!(status(&[SIP, ("origin", "https://good.example")], &["https://good.example"]), 101);
    }
}
