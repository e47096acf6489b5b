//! Presence over links that lose, double and reorder: whatever is published and taken back, in the end every watcher knows what is published then.

use super::*;
use crate::agent::{PresenceError, SubscriptionId};
use crate::message::Uri;
use crate::presence::{Tuple, Watchers};

/// Who publishes which ports.
type Known = BTreeMap<String, BTreeSet<u16>>;

fn tuple(port: u16) -> Tuple {
    let label = Label { proto: Proto::Tcp, port };
    let note = Some(format!("port {port}"));
    Tuple {
        id: format!("t{port}"),
        open: Some(true),
        label: Some(label),
        note,
        contact: None,
        since: None,
        watchers: None,
    }
}

fn uri(user: &str) -> Uri {
    format!("sip:{user}@sipbox.invalid").parse().unwrap()
}

/// What one subscriber has been told so far.
#[derive(Default)]
struct View {
    known: Known,
    errors: Vec<(PresenceError, bool)>,
}

impl World {
    fn pass(&mut self, time: Duration) {
        let limit = self.now + time;
        while self.step(limit) {}
        self.now = limit;
    }

    /// All that these have at the hub is taken back.
    fn leave(&mut self, agents: &[usize]) {
        let now = self.now;
        for agent in agents {
            self.agent(*agent).end_all(now);
            self.agent(*agent).unregister(now);
        }
        self.pass(200 * SECOND);
    }

    fn publish(&mut self, node: usize, ports: &[u16]) {
        let now = self.now;
        self.agent(node).publish(now, ports.iter().map(|port| tuple(*port)).collect());
        self.collect();
    }

    fn subscribe(&mut self, node: usize, resource: &Uri, fetch: bool) -> SubscriptionId {
        let (id, now) = (SubscriptionId::next(), self.now);
        self.agent(node).subscribe(now, id, resource, fetch);
        self.collect();
        id
    }

    /// What came in for a subscription, put together as a user would.
    fn view(&mut self, id: SubscriptionId, view: &mut View) {
        let (ours, others): (Vec<_>, Vec<_>) = std::mem::take(&mut self.notices).into_iter().partition(|(_, notice)| {
            matches!(notice, Notice::Presence { id: of, .. } | Notice::SubscriptionLost { id: of, .. } if *of == id)
        });
        self.notices = others;
        for (_, notice) in ours {
            match notice {
                Notice::Presence { update, .. } => {
                    if update.full {
                        view.known.clear();
                    }
                    for (resource, document) in update.changes {
                        let user = resource.user_decoded().unwrap();
                        let tuples = document.iter().flat_map(|document| &document.tuples);
                        let ports: BTreeSet<u16> = tuples.map(|tuple| tuple.label.unwrap().port).collect();
                        match ports.is_empty() {
                            true => view.known.remove(&user),
                            false => view.known.insert(user, ports),
                        };
                    }
                }
                Notice::SubscriptionLost { error, over, .. } => view.errors.push((error, over)),
                _ => {}
            }
        }
    }
}

fn known(all: &[(&str, &[u16])]) -> Known {
    all.iter().map(|(user, ports)| ((*user).to_owned(), ports.iter().copied().collect())).collect()
}

struct Scene {
    world: World,
    hub: usize,
    bob: usize,
    carol: usize,
    alice: usize,
}

fn scene(seed: u64, link: Link) -> Scene {
    let mut world = World::new(seed, PERFECT);
    world.expires = 60 * SECOND;
    let hub = world.add_hub();
    let [bob, carol, alice] = ["bob", "carol", "alice"].map(|user| world.add_agent(user, hub));
    world.register(&[bob, carol]);
    world.link = link;
    Scene { world, hub, bob, carol, alice }
}

#[test]
fn every_watcher_knows_what_is_published_in_the_end() {
    for link in [PERFECT, ROUGH, STREAM] {
        for seed in 0..40 {
            let Scene { mut world, bob, carol, alice, .. } = scene(seed, link);
            let one = world.subscribe(alice, &uri("bob"), false);
            let list = world.subscribe(alice, &"sip:sipbox.invalid".parse().unwrap(), false);
            let (mut of_bob, mut of_all) = (View::default(), View::default());
            for round in 0..12 {
                let ports: Vec<u16> = (1..6).filter(|_| chance(500)).collect();
                let who = if chance(500) { bob } else { carol };
                world.publish(who, &ports);
                world.pass(SECOND.mul_f64(random::fraction() * if round % 3 == 0 { 40.0 } else { 2.0 }));
            }
            world.publish(bob, &[7, 8]);
            world.publish(carol, &[9]);
            world.pass(40 * SECOND);
            world.view(one, &mut of_bob);
            world.view(list, &mut of_all);
            assert_eq!(of_bob.known, known(&[("bob", &[7, 8])]), "seed {seed}: {:?}", of_bob.errors);
            assert_eq!(of_all.known, known(&[("bob", &[7, 8]), ("carol", &[9])]), "seed {seed}: {:?}", of_all.errors);
            // It is kept up by refreshes for a long time.
            world.pass(300 * SECOND);
            world.view(list, &mut of_all);
            assert_eq!(of_all.known, known(&[("bob", &[7, 8]), ("carol", &[9])]), "seed {seed}");
            world.publish(bob, &[]);
            world.pass(40 * SECOND);
            world.view(one, &mut of_bob);
            world.view(list, &mut of_all);
            assert_eq!((of_bob.known, of_all.known), (known(&[]), known(&[("carol", &[9])])), "seed {seed}");
            world.leave(&[bob, carol, alice]);
            world.assert_clean(seed);
        }
    }
}

/// A publisher that dies takes nothing back: what it published ends by itself.
#[test]
fn what_is_not_refreshed_expires() {
    for seed in 0..20 {
        let Scene { mut world, bob, alice, .. } = scene(seed, ROUGH);
        let one = world.subscribe(alice, &uri("bob"), false);
        world.publish(bob, &[7]);
        world.pass(40 * SECOND);
        let mut view = View::default();
        world.view(one, &mut view);
        assert_eq!(view.known, known(&[("bob", &[7])]), "seed {seed}");
        world.deaf.insert(bob);
        world.pass(100 * SECOND);
        world.view(one, &mut view);
        assert_eq!((view.known, view.errors), (known(&[]), vec![]), "seed {seed}");
    }
}

/// The hub forgets everything: publications are made again after 412, subscriptions after 481, and the watcher sees the same as before.
#[test]
fn a_hub_that_restarts_is_told_again() {
    for link in [PERFECT, ROUGH] {
        for seed in 0..20 {
            let Scene { mut world, hub, bob, alice, .. } = scene(seed, link);
            let one = world.subscribe(alice, &uri("bob"), false);
            world.publish(bob, &[7]);
            world.pass(40 * SECOND);
            world.nodes[hub] = Node::Hub(HomeProxy::new(
                &HubConfig::default(),
                &[Listen::plain(address(hub))],
                Timing::default(),
                world.now,
            ));
            world.notices.clear();
            world.pass(120 * SECOND);
            let mut view = View::default();
            world.view(one, &mut view);
            assert_eq!(view.known, known(&[("bob", &[7])]), "seed {seed}: {:?}", view.errors);
            assert!(!view.errors.iter().any(|(_, over)| *over), "seed {seed}: {:?}", view.errors);
        }
    }
}

/// Nobody is there for a while: the subscriber goes on asking, in growing pauses, and says so once.
#[test]
fn a_hub_that_is_away_is_waited_for() {
    for seed in 0..10 {
        let Scene { mut world, hub, bob, alice, .. } = scene(seed, PERFECT);
        world.publish(bob, &[7]);
        world.pass(SECOND);
        world.deaf.insert(hub);
        let one = world.subscribe(alice, &uri("bob"), false);
        world.pass(300 * SECOND);
        let mut view = View::default();
        world.view(one, &mut view);
        assert_eq!(view.errors, [(PresenceError::Timeout, false)], "seed {seed}");
        world.deaf.remove(&hub);
        world.pass(130 * SECOND);
        world.view(one, &mut view);
        assert_eq!(view.known, known(&[("bob", &[7])]), "seed {seed}: {:?}", view.errors);
    }
}

#[test]
fn a_fetch_is_told_once_and_leaves_nothing() {
    for link in [PERFECT, ROUGH, STREAM] {
        for seed in 0..40 {
            let Scene { mut world, bob, carol, alice, .. } = scene(seed, link);
            world.publish(bob, &[7]);
            world.pass(40 * SECOND);
            let fetch = world.subscribe(alice, &"sip:sipbox.invalid".parse().unwrap(), true);
            world.pass(40 * SECOND);
            let mut view = View::default();
            world.view(fetch, &mut view);
            assert_eq!(view.known, known(&[("bob", &[7])]), "seed {seed}: {:?}", view.errors);
            assert!(matches!(view.errors[..], [(PresenceError::Ended { .. }, true)]), "seed {seed}");
            world.leave(&[bob, carol, alice]);
            world.assert_clean(seed);
        }
    }
}

/// What is for some only is withheld from a server that does not know of that, and shown to nobody else by one that does.
#[test]
fn who_may_not_know_is_not_told() {
    let Scene { mut world, bob, carol, alice, .. } = scene(1, PERFECT);
    let now = world.now;
    let restricted = |who: &str| Tuple { watchers: Some(Watchers::new([who])), ..tuple(7) };
    world.agent(bob).publish(now, vec![restricted("sip:carol@sipbox.invalid"), tuple(8)]);
    let everyone: Uri = "sip:sipbox.invalid".parse().unwrap();
    let subscriptions = [alice, carol, bob].map(|node| world.subscribe(node, &everyone, false));
    world.pass(SECOND);
    let views = subscriptions.map(|id| {
        let mut view = View::default();
        world.view(id, &mut view);
        view.known
    });
    assert_eq!(views, [known(&[("bob", &[8])]), known(&[("bob", &[7, 8])]), known(&[("bob", &[7, 8])])]);
    // A change that is not for alice is not told to her at all.
    let now = world.now;
    world.agent(bob).publish(now, vec![tuple(8)]);
    world.notices.clear();
    world.pass(SECOND);
    let told: Vec<SubscriptionId> = std::mem::take(&mut world.notices)
        .into_iter()
        .filter_map(|(_, notice)| if let Notice::Presence { id, .. } = notice { Some(id) } else { None })
        .collect();
    assert!(!told.contains(&subscriptions[0]) && told.contains(&subscriptions[1]), "{told:?} {subscriptions:?}");
}

/// Nothing has to work here but everything has to come to an end.
#[test]
fn garbled_presence_does_no_harm() {
    let link = Link { garbled: 200, ..ROUGH };
    for seed in 0..100 {
        let Scene { mut world, bob, carol, alice, .. } = scene(seed, link);
        world.subscribe(alice, &uri("bob"), false);
        world.subscribe(alice, &"sip:sipbox.invalid".parse().unwrap(), false);
        for round in 0..6 {
            world.publish(bob, &[round, round + 1]);
            world.pass(20 * SECOND);
        }
        world.link = PERFECT;
        world.leave(&[bob, carol, alice]);
        world.assert_clean(seed);
    }
}
