//! What a client of version 1 is shown of a run in each mode, whole.

use std::time::Duration;

use agentic_fleet::api::wire::{Deltas, Renderer, Version};
use agentic_fleet::settings::{Settings, Sources};
use fleet_actors::event::RunOutcome;
use fleet_actors::ids::WorkflowId;
use fleet_actors::testing::script::Ran;
use serde_json::Value;

use crate::support::{Asked, MODES, config, config_with_tools, plan, script, told, with_tools};

fn shown(ran: &Ran) -> Vec<Value> {
    let routes = Settings::load(&Sources::default()).unwrap().settings.ui_routing;
    let mut renderer = Renderer::new(Version::V1, &WorkflowId::from_trusted("w"), Deltas::Shown);
    let events = ran.events.iter().filter_map(|event| renderer.render(event));
    let mut events: Vec<Value> = events.map(|event| serde_json::from_str(&event.encode(&routes)).unwrap()).collect();
    for event in &mut events {
        let event = event.as_object_mut().unwrap();
        event.remove("timestamp");
        event.remove("workflow_id");
        if let Some(id) = event.get_mut("data").and_then(|data| data.get_mut("request_id")) {
            *id = "a request".into();
        }
    }
    events
}

#[test]
fn every_mode_shows_its_phases_agents_tools_and_answer_in_order() {
    for mode in MODES {
        let run = || with_tools(mode, &config_with_tools()).run();
        let ran = run();
        assert_eq!(ran.outcome(), RunOutcome::Completed, "{mode}: {:?}", ran.history.error);
        insta::assert_json_snapshot!(mode, shown(&ran));
        assert_eq!(run().events, ran.events, "{mode}: twice is not the same");
        ran.replay();
    }
}

#[test]
fn only_the_text_that_becomes_the_answer_is_streamed_to_the_user() {
    for mode in MODES {
        let ran = with_tools(mode, &config_with_tools()).run();
        let streamed: String =
            shown(&ran).iter().filter_map(|event| event["delta"].as_str().map(str::to_owned)).collect();
        assert_eq!(streamed, ran.result().text, "{mode}");
    }
}

#[test]
fn a_forced_mode_is_the_mode_whatever_routing_says() {
    for mode in MODES {
        let ran = script(&config())
            .input(|input| input.mode = Some(mode.to_owned()))
            .model(move |call| Asked::of(call).sensible(&plan("sequential")))
            .run();
        assert_eq!(ran.result().metadata["mode"], mode);
        assert_eq!(told(&ran, "mode"), [mode]);
        ran.replay();
    }
}

#[test]
fn three_agents_of_fifty_milliseconds_take_fifty_milliseconds() {
    let parallel = |agents_max: usize| {
        let mut config = config();
        config.pipeline.max_parallel_agents = agents_max;
        (config.pipeline.progress, config.pipeline.quality) = (false, false);
        let ran = script(&config)
            .model(|call| {
                let asked = Asked::of(call);
                let works = asked.name.is_empty() && !asked.text.contains("material below");
                asked.sensible(&plan("parallel")).after(Duration::from_millis(if works { 50 } else { 0 }))
            })
            .run();
        ran.replay();
        ran.took
    };
    let (together, one_by_one) = (parallel(3), parallel(1));
    assert!((50..60).contains(&together.as_millis()), "{together:?}");
    assert!((150..165).contains(&one_by_one.as_millis()), "{one_by_one:?}");
}
