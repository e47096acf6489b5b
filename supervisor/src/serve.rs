//! `sipbox hub` in the foreground: what an operator runs.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sipcore::hub::{Hub, HubConfig, RelayOffer, Transport, Users};
use sipcore::tls::{ClientTls, ServerTls, TlsError, Trust};
use sipcore::turn::{Mint, TurnConfig, TurnServer};
use tokio::signal::unix::{SignalKind, signal};

use crate::users::{REALM, UsersFile};
use crate::{certificate, cli, ladder, users};

/// How long the end waits for answers that are under way.
const DRAIN: Duration = Duration::from_secs(5);

/// Where everything is that SIGHUP reads again.
struct Files {
    users: Option<PathBuf>,
    only_md5: bool,
    certificate: Option<(PathBuf, PathBuf)>,
    client_ca: Option<PathBuf>,
    foreign_ca: Option<PathBuf>,
    /// TLS is spoken to other domains.
    speaks_tls: bool,
}

impl Files {
    fn of(arguments: &cli::HubArguments) -> Result<Files, String> {
        let usual = users::usual_place().filter(|place| place.exists());
        let wants_tls = !(arguments.listen_tls.is_empty() && arguments.listen_wss.is_empty());
        let certificate = match (&arguments.tls_certificate, &arguments.tls_key) {
            _ if !wants_tls => None,
            (Some(certificate), Some(key)) => Some((certificate.clone(), key.clone())),
            _ => {
                let addresses = arguments.listen_tls.iter().chain(&arguments.listen_wss).map(SocketAddr::ip);
                Some(certificate::of_this_user(&domains(arguments), addresses)?)
            }
        };
        let client_ca = arguments.tls_client_ca.clone();
        Ok(Files {
            users: arguments.users.clone().or(usual),
            only_md5: arguments.digest_md5,
            certificate,
            client_ca,
            foreign_ca: arguments.foreign_ca.clone(),
            speaks_tls: !arguments.listen_tls.is_empty() && !arguments.foreign.is_empty(),
        })
    }

    /// As the hub is to ask for their passwords.
    fn users_of(&self, known: &UsersFile) -> Users {
        known.users().only_md5(self.only_md5)
    }

    /// Whom other domains' certificates have to come from, and who the hub is to them.
    fn foreign_trust(&self) -> Option<Trust> {
        let trust = || Trust { ca: self.foreign_ca.clone(), fingerprint: None, certificate: self.certificate.clone() };
        self.speaks_tls.then(trust)
    }

    fn tls(&self) -> Result<Option<ServerTls>, String> {
        let Some((certificate, key)) = &self.certificate else { return Ok(None) };
        ServerTls::load(certificate, key, self.client_ca.as_deref()).map(Some).map_err(|e| e.to_string())
    }
}

fn domains(arguments: &cli::HubArguments) -> Vec<String> {
    match arguments.domain.is_empty() {
        true => HubConfig::default().domains,
        false => arguments.domain.clone(),
    }
}

/// Every connection is a file descriptor, and the usual soft limit is too low for a hub (getrlimit(2)).
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // With the old limit it serves fewer, and says so when accept() fails.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// A hub in the foreground, until SIGINT or SIGTERM.
pub async fn serve(arguments: cli::HubArguments) -> Result<(), String> {
    raise_file_limit();
    let files = Files::of(&arguments)?;
    let known = files.users.as_deref().map(UsersFile::load).transpose()?;
    let all = [&arguments.listen, &arguments.listen_tls, &arguments.listen_ws, &arguments.listen_wss, &arguments.turn];
    let open = all.into_iter().flatten().find(|address| !address.ip().is_loopback());
    if let (None, Some(open)) = (&known, open) {
        return Err(format!(
            "without users everybody who reaches {open} could register and call as anybody: add users first \
             (`sipbox hub user add NAME`), or listen on 127.0.0.1 or [::1]"
        ));
    }
    let tls = files.tls()?;
    let foreign_trust = files.foreign_trust().filter(|trust| can_tell_domains(trust, &arguments.foreign));
    let turn = turn_server(&arguments).await?;
    let hub = Hub::start(HubConfig {
        relay: turn.as_ref().map(|(_, offer)| offer.clone()),
        domains: domains(&arguments),
        listen: arguments.listen,
        listen_tls: arguments.listen_tls,
        listen_ws: arguments.listen_ws,
        listen_wss: arguments.listen_wss,
        tls: tls.clone(),
        origins: arguments.origin,
        tap: arguments.ladder.then(ladder::tap),
        users: known.as_ref().map(|known| files.users_of(known)),
        groups: arguments.group.into_iter().collect(),
        rate: (arguments.rate > 0).then_some(arguments.rate),
        state: arguments.state,
        page: arguments.page,
        foreign: arguments.foreign,
        foreign_trust,
        dns: arguments.dns,
        ..HubConfig::default()
    });
    let hub = hub.await.map_err(|e| e.to_string())?;
    match (&known, &files.users) {
        (Some(known), Some(place)) => say_users(known, place),
        _ => crate::say::hub(
            "warning: no users, so no password is asked for: every program and user of this machine can register and call as \
             anybody; `sipbox hub user add NAME` adds one",
        ),
    }
    if let (Some(tls), Some((certificate, _))) = (&tls, &files.certificate) {
        say_certificate(tls, certificate);
    }
    for address in turn.iter().flat_map(|(_, offer)| &offer.addresses) {
        crate::say::hub(&format!("STUN and TURN on {address} (UDP, TCP)"));
    }
    for (transport, words) in [
        (Transport::Tls, "TLS"),
        (Transport::Ws, "WebSocket"),
        (Transport::Wss, "WebSocket by TLS"),
        (Transport::Udp, "UDP, TCP"),
    ] {
        for address in hub.addresses_of(transport) {
            crate::say::hub(&format!("listening on {address} ({words})"));
        }
    }
    if let Some(page) = hub.page() {
        crate::say::hub(&format!("page at http://{page}/, numbers at http://{page}/metrics"));
        if !page.ip().is_loopback() {
            crate::say::hub(
                "warning: everybody who reaches the page's address sees who is registered and who calls whom",
            );
        }
    }
    crate::say::hub("ready");
    let signal = |kind| signal(kind).map_err(|e| e.to_string());
    let mut term = signal(SignalKind::terminate())?;
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = tokio::signal::ctrl_c() => break,
            _ = term.recv() => break,
            _ = hup.recv() => read_again(&hub, &files, tls.as_ref()),
        }
    }
    let counters = hub.counters();
    tokio::select! {
        () = hub.drain(DRAIN) => {}
        // Whoever asks twice does not want to wait.
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
    crate::say::hub(&format!("ended; {counters:?}"));
    Ok(())
}

/// Whether there is anybody to believe about who is another domain. If not, the hub serves without, and says what that means.
fn can_tell_domains(trust: &Trust, foreign: &[String]) -> bool {
    let nobody = matches!(ClientTls::new("localhost", trust), Err(TlsError::NoAuthorities));
    if nobody {
        let domains = foreign.join(", ");
        crate::say::hub(&format!(
            "warning: this machine has no certificates of authorities, so nobody can prove to be {domains}: TLS is not spoken to it, and \
             its users are not let in by its certificate; UDP and TCP go on. Name the authorities with --foreign-ca NAME.pem, or install \
             ca-certificates, and start the hub again"
        ));
    }
    !nobody
}

/// The STUN and TURN server beside the hub, and what those who register are told of it.
async fn turn_server(arguments: &cli::HubArguments) -> Result<Option<(TurnServer, RelayOffer)>, String> {
    if arguments.turn.is_empty() {
        return Ok(None);
    }
    let config = TurnConfig {
        listen: arguments.turn.clone(),
        realm: REALM.to_owned(),
        ports: arguments.turn_ports.clone(),
        allow: arguments.turn_allow.clone(),
        ..TurnConfig::default()
    };
    // The credentials of an earlier hub end with it: who registers again gets new ones.
    let mint = Mint::fresh();
    let server = TurnServer::start(config, mint.clone()).await.map_err(|e| e.to_string())?;
    let offer = RelayOffer { addresses: server.addresses(), mint };
    Ok(Some((server, offer)))
}

fn say_users(known: &UsersFile, place: &Path) {
    crate::say::hub(&format!("{} users in {}", known.len(), place.display()));
}

fn say_certificate(tls: &ServerTls, place: &Path) {
    crate::say::hub(&format!("certificate {} with SHA-256 fingerprint {}", place.display(), tls.fingerprint()));
}

/// SIGHUP: users and certificate may be others now. With a file that is wrong it goes on with what it had.
fn read_again(hub: &Hub, files: &Files, tls: Option<&ServerTls>) {
    match &files.users {
        None => crate::say::hub("there is no users file to read again; start the hub with --users FILE"),
        Some(place) => match UsersFile::load(place) {
            Ok(known) => {
                hub.set_users(files.users_of(&known));
                say_users(&known, place);
            }
            Err(why) => crate::say::hub(&format!("{why}; the users stay as they were")),
        },
    }
    let (Some(tls), Some((place, _))) = (tls, &files.certificate) else { return };
    match files.tls() {
        Ok(Some(new)) => {
            tls.replace(&new);
            say_certificate(tls, place);
            if let Some(trust) = files.foreign_trust()
                && let Err(why) = hub.set_foreign_trust(&trust)
            {
                crate::say::hub(&format!("{why}; to other domains the hub is who it was"));
            }
        }
        Ok(None) => {}
        Err(why) => crate::say::hub(&format!("{why}; the certificate stays as it was")),
    }
}
