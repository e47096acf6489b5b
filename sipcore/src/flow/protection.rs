//! TLS 1.3 records (RFC 8446 section 5), sealed and opened in the memory where they lie: no byte of them is copied. The handshake is rustls's, and
//! so are the keys that follow a key update; what is left of the protocol is here.

use std::ops::Range;

use ring::aead::{self, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ContentType, ExtractedSecrets, SupportedCipherSuite};

/// Before the payload: type, version, length.
pub const HEADER: usize = 5;
/// The most that a record carries.
pub const PAYLOAD: usize = 1 << 14;
/// After the payload: its type, and the tag.
pub const TRAILER: usize = 1 + TAG;
/// The longest record that is taken.
pub const LONGEST: usize = HEADER + PAYLOAD + 256;

/// Of all suites.
const TAG: usize = 16;
/// TLS 1.2, as all say (section 5.2).
const VERSION: [u8; 2] = [3, 3];
/// Handshake types (section 4).
const NEW_SESSION_TICKET: u8 = 4;
const KEY_UPDATE: u8 = 24;
/// The longest handshake message that is taken: a ticket.
const LONGEST_MESSAGE: usize = 1 << 16;
/// Key updates and warnings in a row, without a byte of the program.
const IDLE_TALK: u32 = 32;

/// Why a connection is given up.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Found here; the other end is told.
    #[error("{1}")]
    Found(AlertDescription, &'static str),
    /// Found there.
    #[error("the other end gives it up: {0:?}")]
    Told(AlertDescription),
    /// Keys cannot be made.
    #[error("encryption cannot be set up: {0}")]
    Keys(String),
}

/// The keys of the next update, for either end.
pub enum Schedule {
    /// Of who sent the ClientHello.
    Client(KernelConnection<ClientConnectionData>),
    /// Of who answered it.
    Server(KernelConnection<ServerConnectionData>),
}

/// What a record was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Bytes of the program, at this place of the record.
    Data(Range<usize>),
    /// TLS's own.
    Nothing,
    /// Nothing more comes (close_notify).
    End,
}

/// One direction.
struct Direction {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Direction {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Direction, Fault> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Fault::Keys("a cipher suite that is not known".to_owned())),
        };
        let unusable = |_| Fault::Keys("a key of another length".to_owned());
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(unusable)?;
        let iv = iv.as_ref().try_into().map_err(|_| Fault::Keys("an IV of another length".to_owned()))?;
        Ok(Direction { key: LessSafeKey::new(key), iv, sequence })
    }

    /// Section 5.3. Never the same twice.
    fn nonce(&mut self) -> Result<Nonce, Fault> {
        let mut nonce = self.iv;
        for (byte, count) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= count;
        }
        self.sequence = self
            .sequence
            .checked_add(1)
            .ok_or(Fault::Found(AlertDescription::InternalError, "too many records with one key"))?;
        Ok(Nonce::assume_unique_for_key(nonce))
    }
}

/// A TLS 1.3 connection after its handshake.
pub struct Protection {
    seals: Direction,
    opens: Direction,
    schedule: Schedule,
    /// Records after which a key is worn out.
    limit: u64,
    /// The beginning of a handshake message.
    message: Vec<u8>,
    idle_talk: u32,
    /// The other end wants this one's key changed.
    asked: bool,
}

impl Protection {
    pub fn new(secrets: ExtractedSecrets, schedule: Schedule) -> Result<Protection, Fault> {
        let suite = match &schedule {
            Schedule::Client(connection) => connection.negotiated_cipher_suite(),
            Schedule::Server(connection) => connection.negotiated_cipher_suite(),
        };
        let SupportedCipherSuite::Tls13(suite) = suite else {
            return Err(Fault::Keys("TLS 1.2 is not spoken here".to_owned()));
        };
        Ok(Protection {
            seals: Direction::new(secrets.tx)?,
            opens: Direction::new(secrets.rx)?,
            schedule,
            limit: suite.common.confidentiality_limit,
            message: Vec::new(),
            idle_talk: 0,
            asked: false,
        })
    }

    /// Before that its key is changed.
    #[cfg(test)]
    pub fn wears_out_after(&mut self, records: u64) {
        self.limit = records;
    }

    /// Seals what stands between [`HEADER`] and [`TRAILER`] bytes, which are filled in.
    pub fn seal(&mut self, kind: ContentType, record: &mut [u8]) -> Result<(), Fault> {
        let broken = || Fault::Found(AlertDescription::InternalError, "a record could not be sealed");
        let length = record.len().checked_sub(HEADER).filter(|length| *length >= TRAILER).ok_or_else(broken)?;
        let told = u16::try_from(length).map_err(|_| broken())?.to_be_bytes();
        let (header, protected) = record.split_at_mut(HEADER);
        header.copy_from_slice(&[u8::from(ContentType::ApplicationData), VERSION[0], VERSION[1], told[0], told[1]]);
        let (inner, tag) = protected.split_at_mut(length - TAG);
        inner[length - TRAILER] = kind.into();
        let nonce = self.seals.nonce()?;
        let made =
            self.seals.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), inner).map_err(|_| broken())?;
        tag.copy_from_slice(made.as_ref());
        Ok(())
    }

    /// Whether the own key is to be changed before the next record, by [`Protection::renew`].
    pub fn is_due(&self) -> bool {
        // Room for what was begun.
        self.asked || self.seals.sequence >= self.limit.saturating_sub(1024)
    }

    /// Seals the word that the key changes into a record of [`Protection::RENEWAL`] bytes, and changes it.
    pub fn renew(&mut self, record: &mut [u8; Protection::RENEWAL]) -> Result<(), Fault> {
        // It need not change its own.
        record[HEADER..Protection::RENEWAL - TRAILER].copy_from_slice(&[KEY_UPDATE, 0, 0, 1, 0]);
        self.seal(ContentType::Handshake, record)?;
        let next = match &mut self.schedule {
            Schedule::Client(connection) => connection.update_tx_secret(),
            Schedule::Server(connection) => connection.update_tx_secret(),
        };
        self.seals = Direction::new(next.map_err(|e| Fault::Keys(e.to_string()))?)?;
        self.asked = false;
        Ok(())
    }

    /// How long the record is with which a key is changed.
    pub const RENEWAL: usize = HEADER + 5 + TRAILER;

    /// How long the record is whose beginning this is; `None`: that is not known yet.
    pub fn length(start: &[u8]) -> Result<Option<usize>, Fault> {
        let Some(&[kind, _, _, high, low]) = start.first_chunk::<HEADER>() else { return Ok(None) };
        if kind != u8::from(ContentType::ApplicationData) {
            return Err(Fault::Found(AlertDescription::UnexpectedMessage, "a record that is not protected"));
        }
        let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
        if length > LONGEST {
            return Err(Fault::Found(AlertDescription::RecordOverflow, "a record that is too long"));
        }
        Ok(Some(length))
    }

    /// Opens a whole record.
    pub fn open(&mut self, record: &mut [u8]) -> Result<Opened, Fault> {
        let forged = Fault::Found(AlertDescription::BadRecordMac, "a record that the other end has not made");
        let (header, protected) = record.split_at_mut_checked(HEADER).ok_or_else(|| forged.clone())?;
        let nonce = self.opens.nonce()?;
        let inner = self.opens.key.open_in_place(nonce, Aad::from(&*header), protected).map_err(|_| forged)?;
        // Padding may follow (section 5.4).
        let Some(last) = inner.iter().rposition(|byte| *byte != 0) else {
            return Err(Fault::Found(AlertDescription::UnexpectedMessage, "a record of no type"));
        };
        if last > PAYLOAD {
            return Err(Fault::Found(AlertDescription::RecordOverflow, "a record that is too long"));
        }
        let (kind, content) = (ContentType::from(inner[last]), &inner[..last]);
        if !self.message.is_empty() && kind != ContentType::Handshake {
            return Err(Fault::Found(AlertDescription::UnexpectedMessage, "another record within a handshake message"));
        }
        match kind {
            ContentType::ApplicationData => {
                if last > 0 {
                    self.idle_talk = 0;
                }
                Ok(Opened::Data(HEADER..HEADER + last))
            }
            ContentType::Alert => self.alert(content.try_into().ok()),
            ContentType::Handshake => {
                self.message.extend_from_slice(content);
                self.handshake().map(|()| Opened::Nothing)
            }
            _ => Err(Fault::Found(AlertDescription::UnexpectedMessage, "a record of a type that is not known")),
        }
    }

    fn idle_talk(&mut self) -> Result<(), Fault> {
        self.idle_talk += 1;
        if self.idle_talk > IDLE_TALK {
            return Err(Fault::Found(AlertDescription::UnexpectedMessage, "key updates or warnings, and no data"));
        }
        Ok(())
    }

    fn alert(&mut self, alert: Option<[u8; 2]>) -> Result<Opened, Fault> {
        let Some([_, description]) = alert else {
            return Err(Fault::Found(AlertDescription::DecodeError, "an alert of another length"));
        };
        match AlertDescription::from(description) {
            AlertDescription::CloseNotify => Ok(Opened::End),
            // A close_notify follows.
            AlertDescription::UserCanceled => self.idle_talk().map(|()| Opened::Nothing),
            other => Err(Fault::Told(other)),
        }
    }

    /// What has come of handshake messages.
    fn handshake(&mut self) -> Result<(), Fault> {
        while let Some(&[kind, a, b, c]) = self.message.first_chunk() {
            let length = 4 + u32::from_be_bytes([0, a, b, c]) as usize;
            if length > LONGEST_MESSAGE {
                return Err(Fault::Found(AlertDescription::UnexpectedMessage, "a handshake message that is too long"));
            }
            let Some(body) = self.message.get(4..length) else { return Ok(()) };
            match (kind, body) {
                // Nobody comes back with it.
                (NEW_SESSION_TICKET, _) => self.idle_talk()?,
                (KEY_UPDATE, [asks @ (0 | 1)]) => {
                    if self.message.len() > length {
                        let words = "a key update in the middle of a record";
                        return Err(Fault::Found(AlertDescription::UnexpectedMessage, words));
                    }
                    self.asked |= *asks == 1;
                    self.idle_talk()?;
                    let next = match &mut self.schedule {
                        Schedule::Client(connection) => connection.update_rx_secret(),
                        Schedule::Server(connection) => connection.update_rx_secret(),
                    };
                    self.opens = Direction::new(next.map_err(|e| Fault::Keys(e.to_string()))?)?;
                }
                (KEY_UPDATE, _) => {
                    return Err(Fault::Found(
                        AlertDescription::IllegalParameter,
                        "a key update that asks for something else",
                    ));
                }
                _ => {
                    let words = "a handshake message after the handshake";
                    return Err(Fault::Found(AlertDescription::UnexpectedMessage, words));
                }
            }
            self.message.drain(..length);
        }
        Ok(())
    }
}
