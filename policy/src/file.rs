//! The TOML file of a policy: its keys, and what each may hold.

use crate::destination::{Destination, Ports, Proto, host_name};
use crate::document::{Located, Section, Source, choose};
use crate::error::{Error, Wrong};
use crate::flags::Flags;
use crate::flows::Said;
use crate::ice::{self, Ice};
use crate::local::{Local, Unix, UnixPattern};
use crate::names::Space;
use crate::policy::{App, Credentials, Limits, Tls};
use crate::rule::{BindAction, BindDefault, BindRule, ConnectDefault, ConnectRule, Errno, Lead, description};
use crate::uri::{self, HUB_DOMAIN, PeerPattern};

/// What a file says. Bare names in it are users at `domain`, which the flags have a say in.
#[derive(Debug, Default)]
pub(crate) struct File {
    pub domain: String,
    pub app: App,
    pub aor: Option<String>,
    pub registrar: Option<String>,
    pub credentials: Option<Credentials>,
    pub expires: Option<u32>,
    pub tls: Tls,
    /// The default and the words for the trace.
    pub connect_default: Option<(ConnectDefault, String)>,
    pub bind_default: Option<(BindDefault, String)>,
    pub connects: Vec<ConnectRule>,
    pub binds: Vec<BindRule>,
    /// Names and URIs of `[names]`, in the order of the file.
    pub names: Vec<(String, String)>,
    pub space: Space,
    pub limits: Limits,
    pub local: Local,
    pub flows: Said,
    pub ice: Ice,
}

/// The policies that this sipbox reads.
const SCHEMA: u32 = 1;
const URI_EXAMPLE: &str = "\"sip:alice@example.org\"";

/// A file that says nothing, under `flags`.
pub(crate) fn absent(flags: &Flags) -> File {
    File { domain: domain(flags, None, None), ..File::default() }
}

/// Reads the text of a policy file; `name` is what mistakes call it.
pub(crate) fn read(name: &str, text: &str, flags: &Flags) -> Result<File, Error> {
    let source = Source::new(name, text);
    let document = source.parse()?;
    let mut root = Section::root(&source, &document);
    let mut file = File::default();
    schema(&mut root);
    if let Some(section) = root.section("app", "[app]") {
        app(section, &mut file);
    }
    match root.section("identity", "[identity]") {
        Some(section) => identity(section, flags, &mut file),
        None => file.domain = domain(flags, None, None),
    }
    if let Some(section) = root.section("default", "[default]") {
        defaults(section, &mut file);
    }
    for section in root.sections("connect", "[[connect]]") {
        connect(section, &mut file);
    }
    for section in root.sections("bind", "[[bind]]") {
        bind(section, &mut file);
    }
    if let Some(section) = root.section("names", "[names]") {
        names(section, &mut file);
    }
    if let Some(section) = root.section("addresses", "[addresses]") {
        addresses(section, &mut file);
    }
    if let Some(section) = root.section("local", "[local]") {
        local(section, &mut file);
    }
    if let Some(section) = root.section("limits", "[limits]") {
        limits(section, &mut file);
    }
    if let Some(section) = root.section("ice", "[ice]") {
        ice_servers(section, &mut file);
    }
    root.finish();
    source.finish().map(|()| file)
}

/// Where bare names are users: at the host of the identity, else of the registrar, else of the hub. A flag comes before
/// the file.
fn domain(flags: &Flags, aor: Option<&str>, registrar: Option<&str>) -> String {
    let of = |uri: Option<&str>| uri.and_then(|uri| uri::domain_of(&uri::expand(uri, HUB_DOMAIN).ok()?));
    // A bare name is an identity without a domain.
    let full = |uri: Option<&str>| of(uri.filter(|uri| uri.contains(['@', ':'])));
    let flag_registrar = flags.registrar.as_deref();
    let (flag_aor, file_aor) = (full(flags.as_uri.as_deref()), full(aor));
    let found = match flags.as_uri {
        Some(_) => flag_aor.or_else(|| of(flag_registrar)).or(file_aor),
        None => file_aor.or_else(|| of(flag_registrar)),
    };
    found.or_else(|| of(registrar)).unwrap_or_else(|| HUB_DOMAIN.to_owned())
}

fn schema(root: &mut Section<'_, '_>) {
    if let Some(number) = root.number("schema", 0, u32::MAX, "the schema")
        && number.value != SCHEMA
    {
        let what = format!("schema {} is not known to this sipbox", number.value);
        root.mistake(&number.span, Wrong::new(what).help(format!("write schema = {SCHEMA}")));
    }
}

fn app(mut section: Section<'_, '_>, file: &mut File) {
    file.app.name = section.filled_text("name", "\"minetest\"").map(|text| text.value);
    file.app.program = section.filled_text("program", "\"/usr/games/minetest*\"").map(|text| text.value);
    section.finish();
}

fn identity(mut section: Section<'_, '_>, flags: &Flags, file: &mut File) {
    let aor = section.text("aor", URI_EXAMPLE);
    let registrar = section.parsed("registrar", "\"sip:sip.example.org\"", uri::server).map(|uri| uri.value);
    file.domain = domain(flags, aor.as_ref().map(|aor| aor.value.as_str()), registrar.as_deref());
    file.registrar = registrar;
    file.aor = aor.and_then(|aor| section.source.check(&aor.span, uri::address_of_record(&aor.value, &file.domain)));
    file.expires = section.number("expires", 1, u32::MAX, "seconds").map(|number| number.value);
    if let Some(inner) = section.section("credentials", "credentials") {
        file.credentials = credentials(inner);
    }
    if let Some(inner) = section.section("tls", "tls") {
        file.tls = tls(inner);
    }
    section.finish();
}

fn tls(mut section: Section<'_, '_>) -> Tls {
    let fingerprint = |text: &str| {
        let digits = text.bytes().filter(u8::is_ascii_hexdigit).count();
        let others = text.bytes().any(|b| !b.is_ascii_hexdigit() && b != b':');
        if digits != 64 || others {
            let wrong =
                Wrong::new("that is not the SHA-256 of a certificate: 64 hexadecimal digits, with or without colons");
            return Err(wrong.help("`sipbox hub --listen-tls` and `openssl x509 -fingerprint -sha256` print it"));
        }
        Ok(text.to_owned())
    };
    let ca = section.filled_text("ca", "\"/etc/sipbox/ca.pem\"").map(|path| path.value.into());
    let fingerprint = section.parsed("fingerprint", "\"AB:CD:...\"", fingerprint).map(|text| text.value);
    let certificate = section.filled_text("certificate", "\"/home/bob/bob.crt\"");
    let key = section.filled_text("key", "\"/home/bob/bob.key\"");
    let certificate = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate.value.into(), key.value.into())),
        (Some(alone), None) | (None, Some(alone)) => {
            let help = "tls = { certificate = \"/path\", key = \"/path\" }";
            section.mistake(&alone.span, Wrong::new("a certificate and its key go together").help(help));
            None
        }
        (None, None) => None,
    };
    section.finish();
    Tls { ca, fingerprint, certificate }
}

fn credentials(mut section: Section<'_, '_>) -> Option<Credentials> {
    let variable = |text: &str| {
        if text.is_empty() || text.contains(['=', '\0']) {
            let wrong = Wrong::new("that is not the name of an environment variable");
            return Err(wrong.help("for example: credentials = { env = \"SIP_PASSWORD\" }"));
        }
        Ok(text.to_owned())
    };
    let env = section.parsed("env", "\"SIP_PASSWORD\"", variable);
    let file = section.filled_text("file", "\"/home/bob/.config/sipbox/password\"");
    let span = section.span.clone();
    let found = match (env, file) {
        (Some(_), Some(file)) => {
            section
                .mistake(&file.span, Wrong::new("credentials are of env or of a file, not both").help("leave one out"));
            None
        }
        (Some(env), None) => Some(Credentials::Env(env.value)),
        (None, Some(file)) => Some(Credentials::File(file.value.into())),
        (None, None) => {
            if !section.means("env") && !section.means("file") {
                let help = "credentials = { env = \"SIP_PASSWORD\" } or { file = \"/path\" }";
                section.mistake(&span, Wrong::new("credentials do not say where the password is").help(help));
            }
            None
        }
    };
    section.finish();
    found
}

fn defaults(mut section: Section<'_, '_>, file: &mut File) {
    let words = [
        ("deny", ConnectDefault::Deny),
        ("refuse", ConnectDefault::Refuse),
        ("allow-local", ConnectDefault::AllowLocal),
        ("callers", ConnectDefault::Callers),
    ];
    let connect = section.parsed("connect", "\"deny\"", |text| match text {
        "prompt" => Err(Wrong::new("connect = \"prompt\" is not built yet: this sipbox cannot ask")
            .help("write \"deny\" and a [[connect]] rule for what is allowed")),
        _ => choose("connect", text, &words).map(|value| (value, text.to_owned())),
    });
    file.connect_default = connect.map(|Located { value: (value, text), span }| {
        (value, format!("{} [default] connect = \"{text}\"", section.source.place(&span)))
    });
    let words = [
        ("accept", BindDefault::Accept),
        ("publish", BindDefault::Publish),
        ("local", BindDefault::Local),
        ("deny", BindDefault::Deny),
    ];
    let bind =
        section.parsed("bind", "\"local\"", |text| choose("bind", text, &words).map(|value| (value, text.to_owned())));
    file.bind_default = bind.map(|Located { value: (value, text), span }| {
        (value, format!("{} [default] bind = \"{text}\"", section.source.place(&span)))
    });
    file.flows = Said::read(&mut section, true);
    section.finish();
}

fn connect(mut section: Section<'_, '_>, file: &mut File) {
    let to = section.text("to", "\"game.example:30000\"");
    let proto = section.choice("proto", &Proto::WORDS);
    let uri = section.parsed("uri", URI_EXAMPLE, |text| uri::expand(text, &file.domain));
    let refuse = section.choice("refuse", &Errno::WORDS);
    let flows = Said::read(&mut section, false);
    let place = section.source;
    let lead = one_lead(&section, uri, refuse, flows);
    if !section.means("to") {
        let wrong = Wrong::new("[[connect]] does not say what it is about");
        section.mistake(&section.span, wrong.help("add to = \"HOST:PORT\", or to = \"*\" for everything"));
    }
    let to = to.and_then(|to| {
        let parsed = place.check(&to.span, Destination::parse(&to.value))?;
        Some(Located { value: (parsed, to.value), span: to.span })
    });
    // A rule with a mistake of its own is not held against the others.
    let whole = (!section.means("proto") || proto.is_some()).then_some(());
    if let (Some(to), Some(lead), Some(())) = (to, lead, whole) {
        let (parsed, text) = to.value;
        let words = format!("{} [[connect]] to = \"{text}\"", place.place(&to.span));
        let rule = ConnectRule { to: parsed, proto: proto.map(|proto| proto.value), lead, words };
        match file.connects.iter().find(|earlier| earlier.covers(&rule)) {
            Some(earlier) => section.mistake(&to.span, shadowed(&earlier.words)),
            None => file.connects.push(rule),
        }
    }
    section.finish();
}

fn shadowed(earlier: &str) -> Wrong {
    Wrong::new(format!("this rule is never met: {earlier} comes first and covers it"))
        .help("the first rule that fits decides: put this one before it, or leave it out")
}

/// A connect rule leads to a URI or refuses.
fn one_lead(
    section: &Section<'_, '_>,
    uri: Option<Located<String>>,
    refuse: Option<Located<Errno>>,
    flows: Said,
) -> Option<Lead> {
    match (section.has("uri"), section.has("refuse")) {
        (true, true) => {
            let wrong = Wrong::new("a rule leads to a uri or refuses, not both");
            section.mistake(&section.key_span("refuse"), wrong.help("leave out uri or refuse"));
            None
        }
        (false, false) if section.means("uri") || section.means("refuse") => None,
        (false, false) => {
            let wrong = Wrong::new("[[connect]] does not say where it leads");
            let help = format!("add uri = {URI_EXAMPLE}, or refuse = \"ECONNREFUSED\"");
            section.mistake(&section.span, wrong.help(help));
            None
        }
        (true, false) => uri.map(|uri| Lead::Uri { uri: uri.value, flows }),
        (false, true) => {
            for key in ["flows", "cleartext"].into_iter().filter(|key| section.has(key)) {
                let wrong = Wrong::new(format!("{key} means nothing where the rule refuses"));
                section.mistake(&section.key_span(key), wrong.help("leave it out"));
            }
            refuse.map(|errno| Lead::Refuse(errno.value))
        }
    }
}

fn bind(mut section: Section<'_, '_>, file: &mut File) {
    let source = section.source;
    let port = section.number_or_text("port");
    let proto = section.choice("proto", &Proto::WORDS);
    let publish = section.parsed("publish", "\"Bob's world\"", description);
    let accept = section.boolean("accept");
    let deny = section.boolean("deny");
    let from = section.texts("accept-from", "[\"sip:*@example.org\"]");
    let visible = section.texts("visible-to", "[\"sip:*@example.org\"]");
    let action = one_action(&section, publish, accept, deny);
    let accept_from = from.map(|list| patterns(&section, list, &file.domain, &ACCEPT_FROM));
    let visible_to = visible.map(|list| patterns(&section, list, &file.domain, &VISIBLE_TO));
    if section.has("visible-to") && !section.means("publish") {
        let wrong = Wrong::new("visible-to means nothing where nothing is published");
        section
            .mistake(&section.key_span("visible-to"), wrong.help("add publish = \"what peers read\", or leave it out"));
    }
    if action == Some(BindAction::Deny) && section.has("accept-from") {
        let wrong = Wrong::new("accept-from means nothing where the rule denies");
        section.mistake(&section.key_span("accept-from"), wrong.help("leave it out"));
    }
    if !section.means("port") {
        let wrong = Wrong::new("[[bind]] does not say which port it is about");
        section.mistake(&section.span, wrong.help("add port = 30000, a range such as \"30000-30010\", or \"*\""));
    }
    let whole = (!section.means("proto") || proto.is_some()).then_some(());
    if let (Some(port), Some(action), Some(())) = (port, action, whole)
        && let Some(ports) = source.check(&port.span, Ports::parse(&port.value))
    {
        let words = format!("{} [[bind]] port = {}", source.place(&port.span), port.value);
        let rule = BindRule { ports, proto: proto.map(|proto| proto.value), action, accept_from, visible_to, words };
        match file.binds.iter().find(|earlier| earlier.covers(&rule)) {
            Some(earlier) => section.mistake(&port.span, shadowed(&earlier.words)),
            None => file.binds.push(rule),
        }
    }
    section.finish();
}

/// A bind rule publishes, accepts or denies.
fn one_action(
    section: &Section<'_, '_>,
    publish: Option<Located<String>>,
    accept: Option<Located<bool>>,
    deny: Option<Located<bool>>,
) -> Option<BindAction> {
    let said: Vec<&str> = ["publish", "accept", "deny"].into_iter().filter(|key| section.has(key)).collect();
    match said[..] {
        [_] => {}
        [] if ["publish", "accept", "deny"].into_iter().any(|key| section.means(key)) => return None,
        [] => {
            let wrong = Wrong::new("[[bind]] does not say what happens");
            let help = "add publish = \"what peers read\", accept = true, or deny = true";
            section.mistake(&section.span, wrong.help(help));
            return None;
        }
        [first, second, ..] => {
            let wrong = Wrong::new(format!("{first} and {second} say different things"));
            section.mistake(&section.key_span(second), wrong.help("keep one of publish, accept and deny"));
            return None;
        }
    }
    for (key, other, set) in [("accept", "deny", &accept), ("deny", "accept", &deny)] {
        if let Some(Located { value: false, span }) = set {
            let wrong = Wrong::new(format!("{key} = false does not say what happens instead"));
            section.mistake(span, wrong.help(format!("write {other} = true")));
            return None;
        }
    }
    let publish = publish.map(|text| BindAction::Publish(text.value));
    publish.or(accept.map(|_| BindAction::Accept)).or(deny.map(|_| BindAction::Deny))
}

/// What is wrong with an empty list of peers, and what is meant by it most likely.
struct Whom {
    empty: &'static str,
    help: &'static str,
}

const ACCEPT_FROM: Whom =
    Whom { empty: "an empty accept-from lets nobody in", help: "leave it out to let anyone in, or write deny = true" };
const VISIBLE_TO: Whom = Whom {
    empty: "an empty visible-to shows it to nobody",
    help: "leave it out to show it to anyone, or write accept = true in place of publish",
};
/// Patterns of one list.
const MOST_PATTERNS: usize = 64;

fn patterns(
    section: &Section<'_, '_>,
    list: Located<Vec<Located<String>>>,
    domain: &str,
    whom: &Whom,
) -> Vec<PeerPattern> {
    if list.value.is_empty() {
        section.mistake(&list.span, Wrong::new(whom.empty).help(whom.help));
    }
    if list.value.len() > MOST_PATTERNS {
        let wrong = Wrong::new(format!("{} patterns, and {MOST_PATTERNS} are looked at", list.value.len()));
        section.mistake(&list.span, wrong.help("write patterns that cover more, such as \"sip:*@example.org\""));
    }
    let parse = |text: &Located<String>| section.source.check(&text.span, PeerPattern::parse(&text.value, domain));
    list.value.iter().filter_map(parse).collect()
}

fn names(mut section: Section<'_, '_>, file: &mut File) {
    let source = section.source;
    if let Some(Located { value: true, span }) = section.boolean("resolve-others") {
        let wrong = Wrong::new("resolve-others = true is not built yet: other names are unknown to the application");
        section.mistake(&span, wrong.help("write false, or leave it out"));
    }
    let hint = "a name with dots stands in quotes: \"game.example\" = \"sip:alice@example.org\"";
    for (name, target) in section.others(hint) {
        let parsed = source.check(&name.span, host_name(&name.value));
        let uri = source.check(&target.span, uri::expand(&target.value, &file.domain));
        let (Some(parsed), Some(uri)) = (parsed, uri) else { continue };
        if matches!(Destination::parse(&format!("{parsed}:1")), Ok(ref to) if to.virtual_name().is_none()) {
            let wrong = Wrong::new(format!("`{}` has an address of its own", name.value));
            source.mistake(name.span, wrong.help("write a [[connect]] rule for it"));
        } else if file.names.iter().any(|(earlier, _)| *earlier == parsed) {
            let wrong = Wrong::new(format!("`{}` is there twice: capital letters make no difference", name.value));
            source.mistake(name.span, wrong.help("keep one of them"));
        } else {
            file.names.push((parsed, uri));
        }
    }
}

fn addresses(mut section: Section<'_, '_>, file: &mut File) {
    if let Some(net) = section.parsed("v4", "\"198.18.0.0/15\"", Space::parse_v4) {
        file.space.v4 = net.value;
    }
    if let Some(net) = section.parsed("v6", "\"2001:2::/48\"", Space::parse_v6) {
        file.space.v6 = net.value;
    }
    section.finish();
}

fn local(mut section: Section<'_, '_>, file: &mut File) {
    const EXAMPLE: &str = "[\"/run/user/*/bus\"]";
    let source = section.source;
    let unix = if section.is_text("unix") {
        section.parsed("unix", "\"deny\"", |text| match text.chars().next() {
            Some('/' | '@') => Err(Wrong::new("patterns stand in a list").help(format!("write unix = [\"{text}\"]"))),
            _ => choose("unix", text, &[("deny", false), ("allow", true)])
                .map(|all| if all { Unix::Allow } else { Unix::Deny }),
        })
    } else {
        section.texts("unix", EXAMPLE).map(|list| {
            if list.value.is_empty() {
                let wrong = Wrong::new("an empty list allows no socket");
                section.mistake(&list.span, wrong.help("write \"deny\", or leave it out"));
            }
            Located { value: Unix::Only(unix_patterns(source, list.value)), span: list.span }
        })
    };
    let words = |span: &std::ops::Range<usize>, key: &str| format!("{} [local] {key}", source.place(span));
    file.local.unix = unix.map(|unix| (unix.value, words(&unix.span, "unix")));
    let netlink = section.choice("netlink", &[("deny", false), ("allow", true)]);
    file.local.netlink = netlink.map(|there| (there.value, words(&there.span, "netlink")));
    file.local.written = true;
    section.finish();
}

fn unix_patterns(source: &Source<'_>, list: Vec<Located<String>>) -> Vec<UnixPattern> {
    let mut patterns: Vec<UnixPattern> = Vec::new();
    for text in list {
        let Some(pattern) = source.check(&text.span, UnixPattern::parse(&text.value)) else { continue };
        match patterns.iter().find(|earlier| earlier.covers(&pattern)) {
            Some(earlier) => {
                let what = format!("this pattern is never met: \"{}\" covers it", earlier.text());
                source.mistake(text.span, Wrong::new(what).help("leave it out"));
            }
            None => patterns.push(pattern),
        }
    }
    patterns
}

fn limits(mut section: Section<'_, '_>, file: &mut File) {
    if let Some(number) = section.number("sockets", 1, 1 << 20, "sockets") {
        file.limits.sockets = number.value;
    }
    if let Some(number) = section.number("sessions", 1, 1 << 20, "sessions") {
        file.limits.sessions = number.value;
    }
    section.finish();
}

fn ice_servers(mut section: Section<'_, '_>, file: &mut File) {
    let source = section.source;
    let stun = section.texts("stun", "[\"stun.example.org:3478\"]");
    let turn = section.texts("turn", "[\"turn:alice@relay.example.org:3478\"]");
    let read = |list: Option<Located<Vec<Located<String>>>>, parse: fn(&str) -> Result<ice::IceServer, Wrong>| {
        let Some(list) = list else { return Vec::new() };
        if list.value.len() > ice::MOST_SERVERS {
            let what = format!("{} servers are enough", ice::MOST_SERVERS);
            source.mistake(list.span, Wrong::new(what).help("each one delays every first connect: leave some out"));
            return Vec::new();
        }
        list.value.iter().filter_map(|one| source.check(&one.span, parse(&one.value))).collect()
    };
    file.ice.stun = read(stun, ice::stun);
    file.ice.turn = read(turn, ice::turn);
    if let Some(inner) = section.section("credentials", "credentials") {
        file.ice.credentials = credentials(inner);
    }
    section.finish();
}
