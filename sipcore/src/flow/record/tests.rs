//! Against rustls's own record layer, and against peers that misbehave.

use std::io::BufRead;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use super::super::{Certificate, handshake, tls};
use super::*;

const PATIENCE: Duration = Duration::from_secs(60);

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    (near, listener.accept().await.unwrap().0)
}

fn name() -> ServerName<'static> {
    ServerName::try_from("sipbox").unwrap()
}

/// This end, and one by rustls alone.
async fn with_rustls(client: bool) -> (Secure, TlsStream<TcpStream>) {
    let (mut near, far) = pair().await;
    let [own, other] = [0; 2].map(|_| Certificate::new().unwrap());
    if client {
        let config = tls::as_client(&own, other.fingerprint).unwrap();
        let server = TlsAcceptor::from(Arc::new(tls::as_server(&other, own.fingerprint).unwrap()));
        let (shaken, peer) = tokio::join!(handshake::client(&mut near, config, name()), server.accept(far));
        (Secure::new(near, shaken.unwrap()), peer.unwrap().into())
    } else {
        let config = tls::as_server(&own, other.fingerprint).unwrap();
        let client = TlsConnector::from(Arc::new(tls::as_client(&other, own.fingerprint).unwrap()));
        let (shaken, peer) = tokio::join!(handshake::server(&mut near, config), client.connect(name(), far));
        (Secure::new(near, shaken.unwrap()), peer.unwrap().into())
    }
}

/// This end, and the bare records of the other.
async fn with_records() -> (Secure, TcpStream, Protection) {
    let (mut near, mut far) = pair().await;
    let [own, other] = [0; 2].map(|_| Certificate::new().unwrap());
    let client = tls::as_client(&own, other.fingerprint).unwrap();
    let server = tls::as_server(&other, own.fingerprint).unwrap();
    let (shaken, peer) =
        tokio::join!(handshake::client(&mut near, client, name()), handshake::server(&mut far, server));
    (Secure::new(near, shaken.unwrap()), far, peer.unwrap().protection)
}

fn record(protection: &mut Protection, kind: ContentType, content: &[u8]) -> Vec<u8> {
    let mut record = vec![0; HEADER + content.len() + TRAILER];
    record[HEADER..HEADER + content.len()].copy_from_slice(content);
    protection.seal(kind, &mut record).unwrap();
    record
}

/// Bytes that are told apart by their place.
fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|n| (n ^ (n >> 8) ^ (n >> 16)) as u8).collect()
}

/// Carries what is to be sent from here, and takes what comes until the end.
async fn carry(secure: &mut Secure, mut from: &[u8], step: usize) -> io::Result<Vec<u8>> {
    let (mut got, mut finished) = (Vec::new(), false);
    loop {
        let sent = secure.flush()?;
        if sent && !finished {
            let mut count = 0;
            for place in &mut secure.places() {
                let piece = place.len().min(from.len()).min(step - count);
                place[..piece].copy_from_slice(&from[..piece]);
                from = &from[piece..];
                count += piece;
                if piece < place.len() {
                    break;
                }
            }
            secure.seal(count)?;
            if from.is_empty() {
                secure.finish()?;
                finished = true;
            }
            continue;
        }
        match secure.receive()? {
            Received::End if sent && finished => return Ok(got),
            // The other direction goes on.
            Received::End => secure.io().writable().await?,
            Received::Nothing => {
                let sent = secure.flush()?;
                tokio::select! {
                    ready = secure.io().readable() => ready?,
                    ready = secure.io().writable(), if !sent => ready?,
                }
            }
            Received::Some => {
                // As a socket that takes a part.
                let mut room = 40_000;
                secure.deliver(|pieces| {
                    let mut taken = 0;
                    for piece in pieces {
                        let count = piece.len().min(room);
                        got.extend_from_slice(&piece[..count]);
                        room -= count;
                        taken += count;
                    }
                    if taken == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
                })?;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_directions_with_key_updates() {
    for (client, step) in [(true, 300_000), (false, 300_000), (true, 1000), (false, PAYLOAD)] {
        let (mut secure, peer) = with_rustls(client).await;
        // A key of this end's lasts for some dozen records.
        secure.protection.wears_out_after(1024 + 50);
        let data = bytes(4_000_003);
        let (mut reads, mut writes) = tokio::io::split(peer);
        let theirs = data.clone();
        let writing = tokio::spawn(async move {
            for (n, piece) in theirs.chunks(70_001).enumerate() {
                writes.write_all(piece).await.unwrap();
                if n % 16 == 3 {
                    writes.flush().await.unwrap();
                }
            }
            writes.shutdown().await.unwrap();
            writes
        });
        let reading = tokio::spawn(async move {
            let mut got = Vec::new();
            reads.read_to_end(&mut got).await.unwrap();
            got
        });
        let got = tokio::time::timeout(PATIENCE, carry(&mut secure, &data, step)).await.unwrap().unwrap();
        assert!(got == data, "{client} {step}");
        assert!(reading.await.unwrap() == data, "{client} {step}");
        drop(writing.await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_peer_changes_its_key_and_asks_for_the_same() {
    let (mut secure, peer) = with_rustls(false).await;
    let TlsStream::Client(mut peer) = peer else { unreachable!() };
    for n in 0..100u8 {
        peer.get_mut().1.refresh_traffic_keys().unwrap();
        peer.write_all(&[n; 3000]).await.unwrap();
        peer.flush().await.unwrap();
        let mut got = [0; 3000];
        tokio::time::timeout(PATIENCE, secure.read_exact(&mut got)).await.unwrap().unwrap();
        assert_eq!(got, [n; 3000]);
        secure.send(&[n; 10]).await.unwrap();
        let mut back = [0; 10];
        tokio::time::timeout(PATIENCE, peer.read_exact(&mut back)).await.unwrap().unwrap();
        assert_eq!(back, [n; 10]);
    }
}

/// Who has said the last word says nothing more, also when asked.
#[tokio::test]
async fn no_key_changes_after_the_end() {
    let (mut secure, mut far, mut peer) = with_records().await;
    secure.finish().unwrap();
    assert!(secure.flush().unwrap());
    far.write_all(&record(&mut peer, ContentType::Handshake, &[24, 0, 0, 1, 1])).await.unwrap();
    while outcome(&mut secure).await.unwrap() != Received::Some {}
    assert!(secure.flush().unwrap());
    drop(secure);
    let mut heard = Vec::new();
    far.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len(), HEADER + 2 + TRAILER);
}

/// What [`Secure::receive`] says first that is not "nothing for the moment".
async fn outcome(secure: &mut Secure) -> io::Result<Received> {
    loop {
        match secure.receive() {
            Ok(Received::Nothing) => tokio::time::timeout(PATIENCE, secure.io().readable()).await.unwrap().unwrap(),
            other => return other,
        }
    }
}

#[tokio::test]
async fn what_is_no_record_of_the_peer_ends_the_connection_and_the_peer_is_told() {
    type Make = fn(&mut Protection) -> Vec<u8>;
    let makes: [(Make, AlertDescription); 8] = [
        (
            |peer| {
                let mut forged = record(peer, ContentType::ApplicationData, b"some bytes");
                forged[HEADER + 3] ^= 1;
                forged
            },
            AlertDescription::BadRecordMac,
        ),
        // The header is protected, too.
        (
            |peer| {
                let mut forged = record(peer, ContentType::ApplicationData, b"some bytes");
                forged[2] = 1;
                forged
            },
            AlertDescription::BadRecordMac,
        ),
        // One that is repeated.
        (
            |peer| {
                let once = record(peer, ContentType::ApplicationData, b"");
                [&*once, &*once].concat()
            },
            AlertDescription::BadRecordMac,
        ),
        (|_| vec![23, 3, 3, 0, 3, 1, 2, 3], AlertDescription::BadRecordMac),
        (|_| vec![22, 3, 3, 0, 4, 14, 0, 0, 0], AlertDescription::UnexpectedMessage),
        (|_| vec![23, 3, 3, 0xff, 0xff], AlertDescription::RecordOverflow),
        (|peer| record(peer, ContentType::Handshake, &[13, 0, 0, 0]), AlertDescription::UnexpectedMessage),
        // Key updates without end.
        (
            |peer| {
                let update = |_| {
                    let mut update = [0; Protection::RENEWAL];
                    peer.renew(&mut update).unwrap();
                    update
                };
                (0..100).flat_map(update).collect()
            },
            AlertDescription::UnexpectedMessage,
        ),
    ];
    for (n, (make, alert)) in makes.into_iter().enumerate() {
        let (mut secure, mut far, mut peer) = with_records().await;
        far.write_all(&make(&mut peer)).await.unwrap();
        let error = loop {
            match outcome(&mut secure).await {
                Ok(Received::Some) => assert!(secure.is_taken(), "{n}"),
                other => break other.unwrap_err(),
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{n}");
        assert!(secure.flush().unwrap());
        let mut told = [0; HEADER + 2 + TRAILER];
        far.read_exact(&mut told).await.unwrap();
        assert_eq!(peer.open(&mut told), Err(Fault::Told(alert)), "{n}");
    }
}

#[tokio::test]
async fn tickets_and_split_messages_are_passed_over() {
    let (mut secure, mut far, mut peer) = with_records().await;
    let mut ticket = vec![4, 0, 0x40, 0];
    ticket.resize(4 + 0x4000, 7);
    for piece in ticket.chunks(9000) {
        far.write_all(&record(&mut peer, ContentType::Handshake, piece)).await.unwrap();
    }
    far.write_all(&record(&mut peer, ContentType::ApplicationData, b"data")).await.unwrap();
    let mut got = [0; 4];
    secure.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"data");
}

#[tokio::test]
async fn the_end_is_what_the_peer_says_and_nothing_else() {
    let (mut secure, mut far, mut peer) = with_records().await;
    far.write_all(&record(&mut peer, ContentType::ApplicationData, b"last")).await.unwrap();
    far.write_all(&record(&mut peer, ContentType::Alert, &[1, 0])).await.unwrap();
    let mut got = [0; 4];
    secure.read_exact(&mut got).await.unwrap();
    assert_eq!(outcome(&mut secure).await.unwrap(), Received::End);

    let (mut secure, mut far, mut peer) = with_records().await;
    let cut = record(&mut peer, ContentType::ApplicationData, b"last");
    far.write_all(&cut[..cut.len() - 1]).await.unwrap();
    drop(far);
    assert_eq!(outcome(&mut secure).await.unwrap(), Received::Some);
    assert_eq!(outcome(&mut secure).await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
}

#[tokio::test]
async fn who_shows_another_certificate_is_told_so() {
    let (mut near, far) = pair().await;
    let [own, other, third] = [0; 3].map(|_| Certificate::new().unwrap());
    let config = tls::as_client(&own, third.fingerprint).unwrap();
    let server = TlsAcceptor::from(Arc::new(tls::as_server(&other, own.fingerprint).unwrap()));
    let (shaken, peer) = tokio::join!(handshake::client(&mut near, config, name()), server.accept(far));
    assert_eq!(shaken.err().unwrap().kind(), io::ErrorKind::InvalidData);
    let told = peer.err().unwrap().to_string();
    assert!(told.to_lowercase().contains("alert"), "{told}");
}

/// Finished, a byte and close_notify in one segment: whoever has little to say ends so.
#[tokio::test]
async fn who_ends_with_the_handshake_is_heard() {
    let (mut near, mut far) = pair().await;
    let [own, other] = [0; 2].map(|_| Certificate::new().unwrap());
    let config = tls::as_server(&own, other.fingerprint).unwrap();
    let serving = tokio::spawn(async move {
        let shaken = handshake::server(&mut near, config).await.unwrap();
        Secure::new(near, shaken)
    });
    let config = tls::as_client(&other, own.fingerprint).unwrap();
    let mut client = rustls::ClientConnection::new(Arc::new(config), name()).unwrap();
    let (mut said, mut heard) = (Vec::new(), [0; 4096]);
    client.write_tls(&mut said).unwrap();
    far.write_all(&said).await.unwrap();
    while client.is_handshaking() {
        let count = far.read(&mut heard).await.unwrap();
        assert!(count > 0, "the server is gone");
        client.read_tls(&mut &heard[..count]).unwrap();
        client.process_new_packets().unwrap();
    }
    io::Write::write_all(&mut client.writer(), b"x").unwrap();
    client.send_close_notify();
    said.clear();
    while client.wants_write() {
        client.write_tls(&mut said).unwrap();
    }
    far.write_all(&said).await.unwrap();
    let mut secure = tokio::time::timeout(PATIENCE, serving).await.unwrap().unwrap();
    let mut got = [0; 1];
    secure.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"x");
    assert_eq!(outcome(&mut secure).await.unwrap(), Received::End);
    // The other direction goes on.
    secure.send(b"yes").await.unwrap();
    while client.reader().fill_buf().is_err() {
        let count = far.read(&mut heard).await.unwrap();
        client.read_tls(&mut &heard[..count]).unwrap();
        client.process_new_packets().unwrap();
    }
    assert_eq!(client.reader().fill_buf().unwrap(), b"yes");
}
