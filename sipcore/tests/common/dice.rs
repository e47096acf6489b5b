//! Messages by chance, for parsers to agree on.

/// xorshift64*, so that a failure can be repeated.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed)
    }

    fn roll(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[(self.roll() >> 33) as usize % from.len()]
    }

    fn uri(&mut self) -> String {
        let scheme = self.pick(&["sip", "sips"]);
        let user = self.pick(&["", "alice@", "b-o_b1@", "al%20ice@", "+1-201@", "carol:secret@"]);
        let host = self.pick(&["example.com", "192.0.2.7", "a-b.example.org", "localhost"]);
        let port = self.pick(&["", ":5060", ":5070", ":65535"]);
        let params = self.pick(&["", ";lr", ";transport=tcp", ";transport=udp;lr", ";maddr=192.0.2.1;ttl=15", ";x=y"]);
        format!("{scheme}:{user}{host}{port}{params}")
    }

    fn address(&mut self) -> String {
        let display = self.pick(&["", "\"A. Bell\" ", "Watson "]);
        let tag = self.pick(&[";tag=a6c85cf", ";tag=1.2-3", ""]);
        format!("{display}<{}>{tag}", self.uri())
    }

    /// A request or response that is right.
    pub fn message(&mut self) -> String {
        let method =
            self.pick(&["INVITE", "ACK", "BYE", "REGISTER", "OPTIONS", "SUBSCRIBE", "PUBLISH", "PRACK", "UPDATE"]);
        let start = if self.roll().is_multiple_of(3) {
            let status =
                self.pick(&["100 Trying", "180 Ringing", "200 OK", "404 Not Found", "503 Service Unavailable"]);
            format!("SIP/2.0 {status}")
        } else {
            format!("{method} {} SIP/2.0", self.uri())
        };
        let transport = self.pick(&["UDP", "TCP", "TLS"]);
        let via = self.pick(&["192.0.2.4:5060", "host.example.com", "127.0.0.1:9"]);
        let received = self.pick(&["", ";received=192.0.2.9", ";rport=5", ";rport"]);
        let (from, to, contact) = (self.address(), self.address(), self.address());
        let (call, cseq, body) = (self.roll(), self.roll() >> 34, self.pick(&["", "v=0\r\n", "\r\n\r\nx"]));
        format!(
            "{start}\r\nVia: SIP/2.0/{transport} {via};branch=z9hG4bK{call:x}{received}\r\nMax-Forwards: 70\r\n\
             From: {from}\r\nTo: {to}\r\nCall-ID: {call:x}@example.com\r\nCSeq: {cseq} {method}\r\n\
             Contact: {contact}\r\nX-Other: a, b;c=\"d\"\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    }
}
