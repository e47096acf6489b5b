//! Which of several refusals goes back (RFC 3261 16.7 step 6 and 7).

use crate::message::{Message, name};

/// The best of the final responses of 300 and more, with the challenges of all 401 and 407 gathered in it.
pub(super) fn best(mut refusals: Vec<Message>) -> Option<Message> {
    let at = refusals.iter().enumerate().min_by_key(|(_, response)| rank(response.status().unwrap_or(500)))?.0;
    let mut chosen = refusals.swap_remove(at);
    if matches!(chosen.status(), Some(401 | 407)) {
        for other in &refusals {
            for challenge in [name::WWW_AUTHENTICATE, name::PROXY_AUTHENTICATE] {
                for header in other.headers_named(challenge) {
                    chosen.push(challenge, header.text());
                }
            }
        }
    }
    Some(chosen)
}

/// 6xx decides; then the lowest class; within 4xx what lets the caller try again; 408 says least, 503 is about one server only.
fn rank(status: u16) -> (u16, u16) {
    let class = match status / 100 {
        6 => 0,
        class => class,
    };
    let within = match status {
        401 | 407 | 415 | 420 | 484 | 491 => 0,
        408 | 480 | 503 => 2,
        _ => 1,
    };
    (class, within)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(statuses: &[u16]) -> Option<u16> {
        best(statuses.iter().map(|status| Message::response(*status, "x").build()).collect())?.status()
    }

    #[test]
    fn six_hundred_decides_then_the_lowest_class() {
        assert_eq!(chosen(&[]), None);
        assert_eq!(chosen(&[486, 603, 404]), Some(603));
        assert_eq!(chosen(&[503, 486]), Some(486));
        assert_eq!(chosen(&[408, 486]), Some(486));
        assert_eq!(chosen(&[404, 407]), Some(407));
        assert_eq!(chosen(&[302, 404]), Some(302));
    }

    #[test]
    fn challenges_are_gathered() {
        let challenge = |realm: &str| {
            Message::response(407, "x")
                .header(name::PROXY_AUTHENTICATE, format_args!("Digest realm=\"{realm}\""))
                .build()
        };
        let answer = best(vec![challenge("a"), Message::response(404, "x").build(), challenge("b")]).unwrap();
        assert_eq!(answer.headers_named(name::PROXY_AUTHENTICATE).count(), 2);
    }
}
