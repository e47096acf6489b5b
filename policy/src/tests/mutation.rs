//! Whatever the text, a policy or an error with places inside the text comes out.

use super::FULL;
use crate::{Error, Flags, Policy, Proto};

/// xorshift64*: the same texts in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % bound.max(1)
    }
}

const PIECES: &[&str] = &[
    "[",
    "]",
    "[[connect]]",
    "[[bind]]",
    "=",
    "\"",
    "'",
    "\"\"\"",
    "{",
    "}",
    ",",
    ".",
    "-",
    "*",
    ":",
    "/",
    "@",
    "%",
    "%4",
    "\\u0000",
    "\n",
    "\r",
    "\t",
    "0",
    "-1",
    "99999999999999999999",
    "0x7f",
    "1e9",
    "nan",
    "1979-05-27",
    "true",
    "sip:",
    "sips:@",
    "[::1]:0",
    "::/0",
    "ü",
    "日",
    "\u{feff}",
    "\u{0}",
    "to",
    "port",
    "uri",
    "schema",
    "*=*",
    ";;",
    "[]",
    "{}",
];

fn mutate(random: &mut Random) -> String {
    let mut bytes = FULL.as_bytes().to_vec();
    for _ in 0..=random.below(6) {
        let at = random.below(bytes.len());
        match random.below(6) {
            0 => bytes[at] = random.below(256) as u8,
            1 => bytes.truncate(at.max(1)),
            2 => drop(bytes.drain(at..(at + random.below(20)).min(bytes.len()))),
            3 => {
                let end = (at + random.below(200)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                let to = random.below(bytes.len());
                bytes.splice(to..to, piece);
            }
            _ => {
                let piece = PIECES[random.below(PIECES.len())].bytes();
                let end = if random.below(2) == 0 { at } else { (at + random.below(12)).min(bytes.len()) };
                drop(bytes.splice(at..end, piece));
            }
        }
        if bytes.is_empty() {
            bytes.push(b'\n');
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[test]
fn no_text_makes_a_policy_panic() {
    let mut random = Random(0x5eed_51b0);
    let (mut whole, mut broken) = (0, 0);
    for _ in 0..20_000 {
        let text = mutate(&mut random);
        match Policy::parse("policy.toml", &text) {
            Ok(policy) => {
                whole += 1;
                policy.connect(Proto::Tcp, "10.0.0.1:5432".parse().unwrap());
                policy.bind(Proto::Udp, "0.0.0.0".parse().unwrap(), 30000);
                policy.accept_from(Proto::Udp, 30000, "sip:%zz@example.org");
                policy.resolve("game.example");
            }
            Err(Error::File { mistakes }) => {
                broken += 1;
                assert!(!mistakes.is_empty());
                for mistake in mistakes {
                    // str::lines() drops the final empty line, where an end of file is.
                    let line = text.split('\n').nth(mistake.line - 1).map(|line| line.trim_end_matches('\r'));
                    let length = line.unwrap_or_else(|| panic!("no such line: {mistake}\n{text}")).chars().count();
                    assert!(mistake.column >= 1 && mistake.column <= length + 2, "{mistake}\n{text}");
                    assert!(mistake.width >= 1 && !mistake.to_string().is_empty());
                }
            }
            Err(other) => panic!("{other}"),
        }
    }
    // Both ways must have been walked for the test to mean something.
    assert!(whole > 500 && broken > 5000, "{whole} whole, {broken} broken");
}

#[test]
fn no_flag_makes_a_policy_panic() {
    let mut random = Random(0xf1a6_5eed);
    for _ in 0..20_000 {
        let mut word = String::new();
        for _ in 0..=random.below(8) {
            word.push_str(PIECES[random.below(PIECES.len())]);
        }
        let flags = match random.below(4) {
            0 => Flags { as_uri: Some(word), ..Flags::default() },
            1 => Flags { to: Some(word), ..Flags::default() },
            2 => Flags { registrar: Some(word), ..Flags::default() },
            _ => Flags { maps: vec![word], ..Flags::default() },
        };
        if let Err(error) = Policy::from_flags(&flags) {
            assert!(!error.to_string().is_empty());
        }
    }
}

/// Nothing that nests is followed without bound.
#[test]
fn deep_nests_do_not_exhaust_the_stack() {
    let deep = 200_000;
    let nests = [
        "[".repeat(deep),
        format!("app = {}", "[".repeat(deep)),
        format!("app = {}", "{a=".repeat(deep)),
        format!("app{} = 1", ".a".repeat(deep)),
        format!("[app{}]", ".a".repeat(deep)),
        format!("[[connect{}]]", ".a".repeat(deep)),
        format!("app = {{ a{} = 1 }}", ".a".repeat(deep)),
    ];
    for text in nests {
        assert!(Policy::parse("policy.toml", &text).is_err(), "{}", &text[..40]);
    }
}
