//! Blow after blow under load: nodes are killed, alone, in pairs and all at once, frozen and stopped.
//!
//! `MESHLOG_CRASH_ROUNDS` sets the number of rounds (6), `MESHLOG_SEED` which blows fall.

use std::thread;
use std::time::Duration;

use super::scene::Scene;
use crate::dice::Dice;

/// Every so many rounds everything is read again; the tails read all of it anyway.
const CHECK_EVERY: u32 = 10;

#[derive(Clone, Copy, Debug)]
enum Blow {
    /// Some die and come back, the first of them perhaps before anyone has noticed.
    Kill(usize),
    /// Some stop running for so long, and then go on as if nothing had been.
    Freeze(usize, Duration),
    /// One is asked to stop, and comes back.
    Stop,
}

fn draw(dice: &mut Dice) -> Blow {
    match dice.below(10) {
        0..=3 => Blow::Kill(1),
        4 => Blow::Kill(2),
        5..=6 => Blow::Kill(3),
        7..=8 => Blow::Freeze(
            1 + dice.below(3),
            Duration::from_millis(100 + dice.below(1_900) as u64),
        ),
        _ => Blow::Stop,
    }
}

fn number(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}: {value} is no number")),
    )
}

#[test]
fn crash_after_crash_under_load_loses_changes_and_repeats_nothing() {
    let rounds = number("MESHLOG_CRASH_ROUNDS").unwrap_or(6) as u32;
    let seed = number("MESHLOG_SEED").unwrap_or(0x6d65_7368);
    println!("MESHLOG_SEED={seed}");
    let mut dice = Dice::new(seed | 1);
    let mut scene = Scene::three_nodes();
    for round in 0..rounds {
        // In the middle of anything.
        thread::sleep(Duration::from_micros(dice.below(50_000) as u64));
        let blow = draw(&mut dice);
        let mut names = scene.cluster.names();
        for place in (1..names.len()).rev() {
            names.swap(place, dice.below(place + 1));
        }
        println!("round {round}: {blow:?} of {names:?}");
        match blow {
            Blow::Kill(3) => {
                scene.cluster.kill_all();
                names.iter().for_each(|name| scene.cluster.serve(name));
            }
            Blow::Kill(count) => {
                let dead = &names[..count];
                dead.iter().for_each(|name| scene.cluster.kill(name));
                if count == 1 && dice.below(2) == 0 {
                    // Long enough for others to lead.
                    scene.gets_on();
                }
                dead.iter().for_each(|name| scene.cluster.serve(name));
            }
            Blow::Freeze(count, time) => {
                let frozen = &names[..count];
                frozen.iter().for_each(|name| scene.cluster.pause(name));
                thread::sleep(time);
                frozen.iter().for_each(|name| scene.cluster.go_on(name));
            }
            Blow::Stop => {
                let status = scene.cluster.stop(&names[0]);
                assert!(status.success(), "{status}");
                scene.cluster.serve(&names[0]);
            }
        }
        let took = scene.gets_on();
        println!("round {round}: under way again after {took:?}");
        if round % CHECK_EVERY == CHECK_EVERY - 1 {
            scene.load.check();
        }
    }
    scene.ends_well(3);
}
