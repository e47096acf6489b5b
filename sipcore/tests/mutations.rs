//! A short fuzz run that can be repeated: the torture messages and the seeds of the fuzz targets, mutated by a seeded generator.
#![allow(clippy::unwrap_used)]

#[path = "../../fuzz/sipcore_checks.rs"]
mod sipcore_checks;

use std::path::Path;

use sipcore_checks as check;

const MUTATIONS: usize = 20_000;

/// xorshift64*
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % n.max(1)
    }

    fn mutate(&mut self, seed: &[u8], other: &[u8]) -> Vec<u8> {
        const PIECES: &[&[u8]] = &[
            b"\r\n",
            b"\r\n ",
            b"\r",
            b"\n",
            b"\0",
            b"\"",
            b"\\",
            b"<",
            b">",
            b";",
            b",",
            b"=",
            b":",
            b"%",
            b"%0",
            b"@",
            b"[",
            b"]",
            b"\xff",
            b"\xc3\xa4",
            b" ",
            b"\t",
            b"Via: ",
            b"l: 5\r\n",
            b"4294967296",
            b"SIP/2.0",
            b"a=setup:",
            b"m=application 9 TCP ",
        ];
        let mut out = seed.to_vec();
        for _ in 0..=self.below(5) {
            let at = self.below(out.len() + 1);
            let end = (at + self.below(12)).min(out.len());
            match self.below(6) {
                0 if at < out.len() => out[at] ^= 1 << self.below(8),
                1 => drop(out.drain(at..end)),
                2 => {
                    let piece = PIECES[self.below(PIECES.len())];
                    drop(out.splice(at..at, piece.iter().copied()));
                }
                3 => {
                    let piece = PIECES[self.below(PIECES.len())];
                    drop(out.splice(at..end, piece.iter().copied()));
                }
                4 => {
                    let from = self.below(other.len());
                    let to = (from + self.below(200)).min(other.len());
                    drop(out.splice(at..at, other[from..to].iter().copied()));
                }
                _ => {
                    let copy = out[at..end].repeat(self.below(4));
                    drop(out.splice(at..at, copy));
                }
            }
        }
        if self.below(10) == 0 {
            out.truncate(self.below(out.len()));
        }
        out
    }
}

fn files(dir: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let listed = std::fs::read_dir(&dir).unwrap_or_else(|e| panic!("{} cannot be read: {e}", dir.display()));
    let mut paths: Vec<_> = listed.map(|f| f.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|p| std::fs::read(p).unwrap()).collect()
}

/// Runs `check` on the seeds and on mutations of them; a failure shows the input.
fn run(seeds: &[Vec<u8>], count: usize, check: fn(&[u8])) {
    let mut dice = Dice(0x5eed_5109_b0c5);
    seeds.iter().for_each(|seed| check(seed));
    for n in 0..count {
        let input = {
            let other = dice.below(seeds.len());
            dice.mutate(&seeds[n % seeds.len()], &seeds[other])
        };
        if std::panic::catch_unwind(|| check(&input)).is_err() {
            panic!("mutation {n}: {}", input.escape_ascii());
        }
    }
}

#[test]
fn torture_messages() {
    let mut seeds = files("../../shared/corpus/rfc4475");
    seeds.extend(files("../fuzz/corpus/sip_message"));
    run(&seeds, MUTATIONS, check::message);
}

#[test]
fn streams() {
    let mut seeds = files("../../shared/corpus/rfc4475");
    seeds.extend(files("../fuzz/corpus/stream_parser"));
    run(&seeds, MUTATIONS / 4, check::stream);
}

#[test]
fn uris() {
    run(&files("../fuzz/corpus/uri"), MUTATIONS, check::uri);
}

#[test]
fn session_descriptions() {
    run(&files("../fuzz/corpus/sdp"), MUTATIONS, check::sdp);
}

#[test]
fn data_channels() {
    run(&files("../fuzz/corpus/datachannel"), MUTATIONS, check::datachannel);
}

#[test]
fn presence_bodies() {
    run(&files("../fuzz/corpus/presence"), MUTATIONS, check::presence);
}

#[test]
fn authentication() {
    run(&files("../fuzz/corpus/digest_header"), MUTATIONS, check::digest);
}
