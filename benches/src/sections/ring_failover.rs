//! Leaders that are killed, and leaders that are asked to stop, under load.

use std::time::{Duration, Instant};

use mesh_ring::hash::partition_of;
use mesh_ring::ids::NodeId;

use super::Run;
use crate::load::{Load, Pace};
use crate::mesh::Mesh;
use crate::outcome::{Comparison, Findings};
use crate::rounds::{Samples, median};
use crate::{Result, say};

/// Kills of a node that leads the topic and not the control plane, too.
const KILLS: u64 = 20;
/// All kills: the control plane may be where the topic is for long.
const KILLS_MAX: usize = 32;
const STOPS: u64 = 10;
const TOPICS: usize = 6;

/// Some 10,000 records a second: enough that every moment has its acknowledgement, not so much that the machine stands
/// still for other reasons.
const PACE: Pace = Pace {
    in_flight: 8,
    pause: Duration::from_millis(4),
};

/// How long the load goes on undisturbed before each blow and after it.
const REST: Duration = Duration::from_secs(1);

/// Bytes that the load may come to, over all copies.
const BYTES: u64 = 10 << 30;

const APART: &str = "meshctl, SIGKILL";
const ALL: &str = "meshctl, SIGKILL, until all topics that it led";
const CONTROL: &str = "meshctl, SIGKILL, led the control plane, too";
const STOP: &str = "meshctl, SIGTERM, longest pause";
const STOP_ALL: &str = "meshctl, SIGTERM, longest pause of all its topics";

pub(super) fn run(run: &Run<'_>) -> Result<Findings> {
    run.place.need(run.sized(BYTES))?;
    let dir = run.place.fresh();
    let mut mesh = Mesh::start(&dir, 3)?;
    let topics: Vec<String> = (0..TOPICS).map(|number| format!("load/{number}")).collect();
    let load = Load::start(mesh.client_config()?, &topics, PACE)?;
    std::thread::sleep(3 * REST);

    let mut kills = Kills::default();
    while (kills.apart.len() as u64) < run.sized(KILLS).max(2) && kills.count() < KILLS_MAX {
        kill(&mut mesh, &load, &topics, &mut kills)?;
    }
    let mut stops = Stops::default();
    for number in 0..run.sized(STOPS).max(2) as usize {
        stop(&mut mesh, &load, &topics, number, &mut stops)?;
    }
    std::thread::sleep(REST);
    let outcome = load.finish()?;
    for topic in &topics {
        let verified = mesh.json(&["verify", topic])?;
        if verified["identical"] != true {
            return Err(format!("the copies of {topic} differ: {verified}").into());
        }
    }
    drop(mesh);
    run.place.clear(&dir)?;
    findings(&kills, &stops, outcome)
}

fn findings(kills: &Kills, stops: &Stops, outcome: crate::load::Outcome) -> Result<Findings> {
    let mut findings = Findings::default();
    findings.notes.push(format!(
        "Three nodes; {} records of 1 KiB in flight to {TOPICS} topics, each with a rest of {} ms. A takeover lasts from the \
         SIGKILL to the topic's first acknowledgement in a later epoch, so that no answer counts which the dead node had \
         still sent. The node is restarted, and the cluster is whole, before the next. In the end every topic is read \
         whole, and `verify` compares all copies.",
        PACE.in_flight * TOPICS,
        PACE.pause.as_millis(),
    ));
    let (apart, control) = (&kills.apart, &kills.control);
    let text = |ms: &[f64], what: &str| format!("{} {what}", ms.len());
    findings.bar(
        "failover",
        median(apart.clone()),
        text(
            apart,
            "kills of a node that led the topic and not the control plane",
        ),
    );
    let longest = |ms: &[f64]| ms.iter().copied().fold(0.0, f64::max);
    findings.bar("failover-max", longest(apart), text(apart, "kills"));
    if !control.is_empty() {
        findings.bar("failover-control", longest(control), text(control, "kills"));
    }
    findings.bar(
        "failover-lost",
        outcome.lost as f64,
        format!("of {} acknowledged", outcome.acknowledged),
    );
    findings.bar(
        "handover",
        longest(&stops.topic),
        match stops.failed {
            0 => text(&stops.topic, "stops"),
            failed => text(
                &stops.topic,
                &format!("stops, {failed} ended with an error"),
            ),
        },
    );
    let samples: Vec<Samples> = [
        (APART, apart),
        (CONTROL, control),
        (ALL, &kills.all),
        (STOP, &stops.topic),
        (STOP_ALL, &stops.all),
    ]
    .into_iter()
    .filter(|(_, values)| !values.is_empty())
    .map(|(name, values)| Samples {
        name: name.to_owned(),
        values: values.clone(),
    })
    .collect();
    let title = "without acknowledgements";
    let baseline = samples.first().ok_or("nothing was measured")?.name.clone();
    let comparison = Comparison::new(title, "ms", false, &baseline, &samples)?;
    findings.comparisons.push(comparison);
    Ok(findings)
}

/// Milliseconds of each.
#[derive(Default)]
struct Kills {
    apart: Vec<f64>,
    control: Vec<f64>,
    all: Vec<f64>,
}

impl Kills {
    fn count(&self) -> usize {
        self.apart.len() + self.control.len()
    }
}

#[derive(Default)]
struct Stops {
    topic: Vec<f64>,
    all: Vec<f64>,
    /// Nodes that ended with an error.
    failed: usize,
}

/// A node, and the topics of the load that it leads, each with its epoch.
struct Led {
    node: String,
    topics: Vec<(usize, u64)>,
}

/// Whoever leads this topic.
fn leader(load: &Load, topics: &[String], topic: usize) -> Result<Led> {
    let (runtime, client) = load.client();
    let view = runtime.block_on(client.cluster())?;
    let count = u16::try_from(view.partitions.len())?;
    let leader = |topic: &String| -> Option<NodeId> {
        let partition = partition_of(topic.as_bytes(), count);
        view.partitions[usize::from(partition.0)].leader
    };
    let id = leader(&topics[topic]).ok_or("the topic has no leader")?;
    let node = view.node(id).ok_or("the map does not know the leader")?;
    let led = (0..topics.len()).filter(|number| leader(&topics[*number]) == Some(id));
    Ok(Led {
        node: node.name.clone(),
        topics: led.map(|number| (number, load.epoch(number))).collect(),
    })
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Starts the node again.
fn heal(mesh: &mut Mesh, load: &Load, node: &str) -> Result<()> {
    std::thread::sleep(REST);
    mesh.serve(node)?;
    mesh.wait_until_whole()?;
    std::thread::sleep(REST);
    load.check()
}

fn kill(mesh: &mut Mesh, load: &Load, topics: &[String], kills: &mut Kills) -> Result<()> {
    let topic = kills.count() % topics.len();
    let status = mesh.wait_until_whole()?;
    let led = leader(load, topics, topic)?;
    let leads_control = status["control_leader"] == led.node.as_str();
    let killed = mesh.kill(&led.node)?;
    let mut longest = Duration::ZERO;
    for (number, epoch) in &led.topics {
        let again = load.wait_for_epoch_after(*number, *epoch, killed)? - killed;
        longest = longest.max(again);
        if *number == topic {
            let kills = if leads_control {
                &mut kills.control
            } else {
                &mut kills.apart
            };
            kills.push(ms(again));
            let too = if leads_control {
                ", control plane, too"
            } else {
                ""
            };
            say(&format!(
                "  SIGKILL of {}: {:.0} ms{too}",
                led.node,
                ms(again)
            ));
        }
    }
    kills.all.push(ms(longest));
    heal(mesh, load, &led.node)
}

fn stop(
    mesh: &mut Mesh,
    load: &Load,
    topics: &[String],
    number: usize,
    stops: &mut Stops,
) -> Result<()> {
    let topic = number % topics.len();
    mesh.wait_until_whole()?;
    let led = leader(load, topics, topic)?;
    let (asked, in_order) = mesh.terminate(&led.node)?;
    stops.failed += usize::from(!in_order);
    for (number, epoch) in &led.topics {
        load.wait_for_epoch_after(*number, *epoch, asked)?;
    }
    std::thread::sleep(REST);
    let mut longest = Duration::ZERO;
    for (number, _) in &led.topics {
        let pause = longest_pause(&load.times_around(*number, asked));
        longest = longest.max(pause);
        if *number == topic {
            stops.topic.push(ms(pause));
            say(&format!("  SIGTERM of {}: {:.0} ms", led.node, ms(pause)));
        }
    }
    stops.all.push(ms(longest));
    heal(mesh, load, &led.node)
}

fn longest_pause(times: &[Instant]) -> Duration {
    let pauses = times.windows(2).map(|pair| pair[1] - pair[0]);
    pauses.max().unwrap_or_default()
}
