//! When a server is ready: the lines of the platforms, what players write, and what is told while it waits
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]

use prexorcloud_protocol::proto::{
    CompositionPlan, ConfigFormat, InstanceCategory, ReadinessRule, ReadinessSignal, RuntimeArtifact,
    StartInstance,
};
use prexorcloud_protocol::readiness::{
    Evidence, Eyes, InvalidLine, Judge, LINE_BYTES, LineText, MAX_LINE_TEXT, Platform, Rule, Verdict, message,
};
use proptest::prelude::*;

const READY: Verdict = Verdict::Ready(Evidence::Line);

fn judge(rule: Rule) -> Judge {
    Judge::new(rule, 25_565, Eyes::OnTheNode)
}

fn is_ready(rule: Rule, line: &str) -> bool {
    judge(rule).handle_line(line) == READY
}

/// What the platforms print, as their consoles show it.
const READY_LINES: [(Platform, &str); 17] = [
    (
        Platform::Minecraft,
        "[12:00:07 INFO]: Done (6.217s)! For help, type \"help\"",
    ),
    (
        Platform::Minecraft,
        "[12:00:07] [Server thread/INFO]: Done (6.217s)! For help, type \"help\"",
    ),
    (
        Platform::Minecraft,
        "[12:00:07] [Server thread/INFO] [minecraft/DedicatedServer]: Done (10.2s)! For help, type \"help\"",
    ),
    (
        Platform::Minecraft,
        "[29Nov2026 12:00:07.123] [Server thread/INFO] [net.minecraft.server.dedicated.DedicatedServer/]: Done (10.2s)! For help, type \"help\"",
    ),
    (
        Platform::Minecraft,
        "12:00:07 [INFO] Done (1.2s)! For help, type \"help\" or \"?\"",
    ),
    (
        Platform::Minecraft,
        "2026-11-29 12:00:07 [INFO] Done (1234567890ns)! For help, type \"help\" or \"?\"",
    ),
    (
        Platform::Minecraft,
        "[12:00:07 INFO]: Done (6,217s)! For help, type \"help\"",
    ),
    (
        Platform::Minecraft,
        "\u{1b}[m[12:00:07 \u{1b}[32mINFO\u{1b}[m]: Done (6.217s)! For help, type \"help\"\u{1b}[m",
    ),
    (
        Platform::Minecraft,
        "> \u{1b}]0;Paper\u{7}[12:00:07 INFO]: \u{a7}aDone (6.217s)! For help, type \"help\"",
    ),
    (
        Platform::Minecraft,
        "[12:00:07 INFO]: [Server thread] Done (6.217s)! For help",
    ),
    (Platform::Minecraft, "Done (0.5s)! For help, type \"help\""),
    (Platform::Velocity, "[12:00:07 INFO]: Done (1.23s)!"),
    (Platform::Velocity, "[12:00:07] [main/INFO]: Done (1.23s)!"),
    (
        Platform::Bungeecord,
        "12:00:07 [INFO] Listening on /0.0.0.0:25577",
    ),
    (
        Platform::Bungeecord,
        "[12:00:07 INFO]: Listening on /[0:0:0:0:0:0:0:0%0]:25577",
    ),
    (
        Platform::Bungeecord,
        "[12:00:07 INFO]: Listening on localhost/127.0.0.1:25577",
    ),
    (Platform::Bungeecord, "INFO: Listening on /0.0.0.0:25565"),
];

/// What nobody but players, plugins and other parts of a server print.
const OTHER_LINES: [&str; 26] = [
    "",
    "Done",
    "Done (",
    "Done (s)! For help",
    "Done (fast)! For help",
    "Done (1.2s) For help",
    "Done preparing level \"world\" (1.2s)",
    "[12:00:07 INFO]: <Steve> Done (1s)! For help",
    "[12:00:07 INFO]: <Steve> Done (1s)!",
    "[12:00:07] [Server thread/INFO]: [Not Secure] <Steve> Done (1s)! For help",
    "[12:00:07] [Async Chat Thread - #0/INFO]: <Steve> Listening on /0.0.0.0:25565",
    "[12:00:07 INFO]: [Server] Done (1s)! For help",
    "[12:00:07 INFO]: Steve: Done (1s)! For help",
    "[12:00:07 INFO]: [VIP] Steve: Done (1s)! For help",
    "[12:00:07 INFO]: * Steve Done (1s)! For help",
    "[12:00:07 INFO]: INFO: Done (1s)! For help",
    "[12:00:07 INFO]: [12:00:07 INFO]: Done (1s)! For help",
    "[12:00:07 INFO]: Steve issued server command: /say Done (1s)! For help",
    "12:00:07 [INFO] <Steve> Done (1s)! For help",
    "12:00:07 [INFO] [VIP]: Done (1s)! For help",
    "<Steve> Done (1s)! For help",
    "[Server] Done (1s)! For help",
    "Listening on port 25565",
    "Listening on /0.0.0.0",
    "Listening on /0.0.0.0:99999",
    "[12:00:07 INFO]: [Lobby] Done (1s)!",
];

#[test]
fn each_platform_is_ready_by_its_own_line() {
    for (platform, line) in READY_LINES {
        if line.contains("[Server thread] Done") {
            // A message that begins like a thread is a message.
            assert!(!is_ready(Rule::Platform(platform), line), "{line}");
            continue;
        }
        for rule in Platform::ALL {
            assert_eq!(
                is_ready(Rule::Platform(rule), line),
                rule == platform,
                "{rule:?}: {line}"
            );
        }
        assert!(is_ready(Rule::Unknown, line), "{line}");
    }
}

#[test]
fn nothing_else_is_a_ready_line() {
    for line in OTHER_LINES {
        for rule in Platform::ALL
            .map(Rule::Platform)
            .into_iter()
            .chain([Rule::Unknown])
        {
            assert!(!is_ready(rule.clone(), line), "{rule}: {line}");
        }
    }
}

#[test]
fn headers_are_taken_away_once() {
    for (line, wanted) in [
        ("[12:00:00 INFO]: hello", "hello"),
        ("[12:00:00 WARN]: hello", "hello"),
        ("[12:00:00] [Server thread/INFO]: hello", "hello"),
        (
            "[12:00:00] [main/INFO] [FabricLoader/GameProvider]: hello",
            "hello",
        ),
        ("[INFO] hello", "hello"),
        ("INFO: hello", "hello"),
        ("SEVERE: hello", "hello"),
        (
            "12:00:00.123 [main] INFO  net.minestom.server.Main - hello",
            "hello",
        ),
        (
            "2026-11-29 12:00:00,123 INFO  [main] net.minestom.server.Main - hello",
            "hello",
        ),
        (
            "2026-11-29T12:00:00.123Z  INFO net.minestom.Main : hello",
            "hello",
        ),
        ("2026-11-29 12:00:00 INFO - hello", "hello"),
        ("  hello", "hello"),
        ("[hello]", "[hello]"),
        ("[hello", "[hello"),
        ("[Server] hello", "[Server] hello"),
        ("[main] hello", "[main] hello"),
        ("[12:00:00 INFO]: [a/b]: hello", "[a/b]: hello"),
        ("12:00:00 [INFO] [a/b]: hello", "hello"),
        ("12:00:00 [INFO] [VIP]: hello", "[VIP]: hello"),
        ("12:00:00 hello", "hello"),
        ("10 hello", "10 hello"),
        ("INFORMATION: hello", "INFORMATION: hello"),
        ("> [12:00:00 INFO]: hello", "hello"),
        ("> hello", "> hello"),
        ("", ""),
    ] {
        assert_eq!(message(line), wanted, "{line}");
    }
}

fn named(jar: &str) -> StartInstance {
    StartInstance {
        jar_file: jar.into(),
        port: 25_565,
        ..Default::default()
    }
}

#[test]
fn the_order_tells_the_platform() {
    for (jar, rule) in [
        ("paper-1.21.4-232.jar", Rule::Platform(Platform::Minecraft)),
        ("Purpur.jar", Rule::Platform(Platform::Minecraft)),
        ("folia-1.21.jar", Rule::Platform(Platform::Minecraft)),
        ("spigot_1.20.jar", Rule::Platform(Platform::Minecraft)),
        ("minecraft_server.1.21.4.jar", Rule::Platform(Platform::Minecraft)),
        (
            "fabric-server-mc.1.21-launch.jar",
            Rule::Platform(Platform::Minecraft),
        ),
        ("neoforge-21.0.jar", Rule::Platform(Platform::Minecraft)),
        ("velocity-3.4.0.jar", Rule::Platform(Platform::Velocity)),
        ("BungeeCord.jar", Rule::Platform(Platform::Bungeecord)),
        ("waterfall-1.21.jar", Rule::Platform(Platform::Bungeecord)),
        ("server.jar", Rule::Unknown),
        ("papermill.jar", Rule::Unknown),
        ("demo-server.jar", Rule::Unknown),
        ("lobby.jar", Rule::Unknown),
        ("", Rule::Unknown),
    ] {
        assert_eq!(Rule::of(&named(jar)), rule, "{jar}");
    }
    let platform = StartInstance {
        platform: "VELOCITY".into(),
        ..named("paper.jar")
    };
    assert_eq!(Rule::of(&platform), Rule::Platform(Platform::Velocity));
    let format = StartInstance {
        config_format: ConfigFormat::Bungeecord as i32,
        category: InstanceCategory::Proxy as i32,
        ..named("proxy.jar")
    };
    assert_eq!(Rule::of(&format), Rule::Platform(Platform::Bungeecord));
    // A plan counts instead of the older fields.
    let runtime = RuntimeArtifact {
        jar_file: "server.jar".into(),
        platform: "paper".into(),
        ..Default::default()
    };
    let planned = StartInstance {
        composition_plan: Some(CompositionPlan {
            runtime: Some(runtime),
            ..Default::default()
        }),
        ..named("velocity.jar")
    };
    assert_eq!(Rule::of(&planned), Rule::Platform(Platform::Minecraft));
}

#[test]
fn the_order_can_say_the_rule_itself() {
    let asked = |signal: ReadinessSignal, line: &str| StartInstance {
        readiness: Some(ReadinessRule {
            signal: signal as i32,
            line: line.into(),
        }),
        ..named("paper.jar")
    };
    assert_eq!(Rule::of(&asked(ReadinessSignal::OpenPort, "")), Rule::Port);
    assert_eq!(Rule::of(&asked(ReadinessSignal::PluginCall, "")), Rule::Plugin);
    let line = LineText::new("Lobby is open").unwrap();
    assert_eq!(
        Rule::of(&asked(ReadinessSignal::ReadyLine, " Lobby is open ")),
        Rule::Line(line)
    );
    let paper = Rule::Platform(Platform::Minecraft);
    assert_eq!(Rule::of(&asked(ReadinessSignal::ReadyLine, " ")), paper);
    assert_eq!(Rule::of(&asked(ReadinessSignal::Unspecified, "x")), paper);
}

#[test]
fn a_configured_line_is_the_beginning_of_a_message_or_anywhere() {
    let begins = Rule::Line(LineText::new("Lobby is open").unwrap());
    assert!(is_ready(
        begins.clone(),
        "[12:00:00 INFO]: Lobby is open on 25565"
    ));
    assert!(is_ready(begins.clone(), "Lobby is open"));
    assert!(!is_ready(begins.clone(), "[12:00:00 INFO]: The Lobby is open"));
    assert!(!is_ready(
        begins.clone(),
        "[12:00:00 INFO]: Done (1.2s)! For help"
    ));
    assert!(!is_ready(begins, "[12:00:00 INFO]: <Steve> Lobby is open"));
    let anywhere = Rule::Line(LineText::new("* is open").unwrap());
    assert!(is_ready(anywhere.clone(), "12~INFO~lobby~The Lobby is open now"));
    assert!(!is_ready(anywhere.clone(), "[12:00:00 INFO]: <Steve> it is open"));
    assert!(!is_ready(anywhere, "[12:00:00 INFO]: is  open"));

    assert_eq!(LineText::new(" \t"), Err(InvalidLine::Control));
    assert_eq!(LineText::new("  "), Err(InvalidLine::Blank));
    assert_eq!(LineText::new("* "), Err(InvalidLine::Blank));
    let limit = MAX_LINE_TEXT;
    assert!(LineText::new(&"x".repeat(limit)).is_ok());
    assert_eq!(
        LineText::new(&"x".repeat(limit + 1)),
        Err(InvalidLine::TooLong { limit })
    );
    assert_eq!(LineText::new("a\u{7}b"), Err(InvalidLine::Control));
}

#[test]
fn the_port_counts_only_where_no_line_is_known_or_by_the_rule() {
    let port = Verdict::Ready(Evidence::Port);
    assert_eq!(judge(Rule::Port).handle_port_open(), port);
    assert_eq!(judge(Rule::Unknown).handle_port_open(), port);
    let line = Rule::Line(LineText::new("open").unwrap());
    for rule in Platform::ALL
        .map(Rule::Platform)
        .into_iter()
        .chain([line, Rule::Plugin])
    {
        let mut judge = judge(rule);
        assert!(!judge.asks_port());
        assert!(matches!(judge.handle_port_open(), Verdict::Waiting(_)));
    }
    for rule in [Rule::Port, Rule::Unknown] {
        let mut from_afar = Judge::new(rule, 25_565, Eyes::OnTheConsole);
        assert!(!from_afar.asks_port());
        assert!(matches!(from_afar.handle_port_open(), Verdict::Waiting(_)));
    }
}

#[test]
fn a_server_that_says_what_it_is_waits_for_its_own_line() {
    for (announcement, platform) in [
        (
            "[12:00:00] [ServerMain/INFO]: Starting minecraft server version 1.21.4",
            Platform::Minecraft,
        ),
        (
            "[12:00:00 INFO]: Loading Paper 1.21.4-232-main for Minecraft 1.21.4",
            Platform::Minecraft,
        ),
        (
            "[12:00:00] [main/INFO]: Loading Minecraft 1.21.4 with Fabric Loader 0.16.9",
            Platform::Minecraft,
        ),
        (
            "[12:00:00 INFO]: Booting up Velocity 3.4.0-SNAPSHOT (git-1234)...",
            Platform::Velocity,
        ),
        (
            "12:00:00 [INFO] Enabled BungeeCord version git:BungeeCord-Bootstrap:1.21",
            Platform::Bungeecord,
        ),
    ] {
        let mut judge = judge(Rule::Unknown);
        let _ = judge.handle_line(announcement);
        assert!(!judge.asks_port(), "{announcement}");
        assert!(matches!(judge.handle_port_open(), Verdict::Waiting(_)));
        for (other, line) in READY_LINES
            .iter()
            .filter(|(_, line)| !line.contains("[Server thread] Done"))
        {
            let is_ready = judge.clone().handle_line(line) == READY;
            assert_eq!(is_ready, *other == platform, "{announcement}: {line}");
        }
    }
    let mut judge = judge(Rule::Unknown);
    let _ = judge.handle_line("[12:00:00 INFO]: <Steve> Booting up Velocity 3");
    assert!(judge.asks_port(), "a player announces nothing");
    let mut by_order = self::judge(Rule::Port);
    let _ = by_order.handle_line("Starting minecraft server version 1.21.4");
    assert!(by_order.asks_port(), "the order knows better");
}

#[test]
fn an_announcement_is_the_first_one() {
    let mut judge = judge(Rule::Unknown);
    let _ = judge.handle_line("[12:00:00 INFO]: Booting up Velocity 3.4.0...");
    // A plugin that prints what another platform would.
    let _ = judge.handle_line("[12:00:01 INFO]: Starting minecraft server version 1.21.4");
    assert_eq!(judge.handle_line("[12:00:02 INFO]: Done (1.2s)!"), READY);
}

#[test]
fn a_header_has_one_level() {
    assert_eq!(message("INFO WARN: hello"), "WARN: hello");
    assert_eq!(message("12:00:00 INFO INFO: hello"), "INFO: hello");
}

#[test]
fn the_plugin_counts_by_every_rule() {
    let line = Rule::Line(LineText::new("open").unwrap());
    for rule in [Rule::Port, Rule::Unknown, Rule::Plugin, line] {
        assert_eq!(judge(rule).handle_plugin(), Verdict::Ready(Evidence::Plugin));
    }
}

#[test]
fn what_is_missing_is_said() {
    let waiting = |rule: &str, eyes| {
        Judge::new(rule.parse().unwrap(), 25_565, eyes)
            .waiting()
            .to_string()
    };
    let line = "waiting for the ready line (Done (1.2s)! For help) or the plugin's call";
    for (rule, on_the_node) in [
        ("platform:minecraft", line),
        ("port", "waiting for port 25565"),
        ("plugin", "waiting for the plugin's call"),
        ("unknown", "waiting for port 25565 or a ready line"),
        (
            "line:open",
            "waiting for the ready line (open) or the plugin's call",
        ),
    ] {
        assert_eq!(waiting(rule, Eyes::OnTheNode), on_the_node);
    }
    assert_eq!(waiting("platform:minecraft", Eyes::OnTheConsole), line);
    for rule in ["port", "unknown"] {
        let text = waiting(rule, Eyes::OnTheConsole);
        assert!(text.contains("the plugin's call: "), "{text}");
        assert!(text.contains("on the node, whose daemon does not look"), "{text}");
    }
    let mut judge = judge(Rule::Unknown);
    let _ = judge.handle_line("Starting minecraft server version 1.21.4");
    assert_eq!(
        judge.waiting().to_string(),
        line,
        "the missing layer has become another"
    );
}

#[test]
fn only_the_beginning_of_a_line_is_looked_at() {
    let mut line = "\u{e9}".repeat(LINE_BYTES);
    line.push_str("open");
    let rule = Rule::Line(LineText::new("*open").unwrap());
    assert!(!is_ready(rule.clone(), &line));
    let mut line = "x".repeat(LINE_BYTES - 4);
    line.push_str("open");
    assert!(is_ready(rule, &line));
}

#[test]
fn a_rule_is_kept_as_text() {
    for text in [
        "platform:minecraft",
        "platform:velocity",
        "platform:bungeecord",
        "line:Lobby is open",
        "line:* open",
        "port",
        "plugin",
        "unknown",
    ] {
        let rule: Rule = text.parse().unwrap();
        assert_eq!(rule.to_string().parse::<Rule>().unwrap(), rule);
    }
    assert_eq!(
        "platform:velocity".parse(),
        Ok(Rule::Platform(Platform::Velocity))
    );
    for text in ["", "line:", "platform:", "platform:x", "Port"] {
        assert!(text.parse::<Rule>().is_err(), "{text}");
    }
}

/// Names, prefixes and formats of chat plugins; none has the form of a log's header.
fn chat() -> impl Strategy<Value = String> {
    let name = "[A-Za-z0-9_]{3,16}";
    prop_oneof![
        name.prop_map(|name| format!("<{name}> ")),
        name.prop_map(|name| format!("[Not Secure] <{name}> ")),
        name.prop_map(|name| format!("{name}: ")),
        ("[A-Za-z+]{1,8}", name).prop_map(|(rank, name)| format!("[{rank}] {name}: ")),
        ("[A-Za-z+]{1,8}", name).prop_map(|(rank, name)| format!("[{rank}] {name} \u{bb} ")),
        name.prop_map(|name| format!("* {name} ")),
        Just("[Server] ".to_owned()),
    ]
}

fn header() -> impl Strategy<Value = &'static str> {
    prop_oneof![
        Just("[12:00:00 INFO]: "),
        Just("[12:00:00] [Server thread/INFO]: "),
        Just("[12:00:00] [Async Chat Thread - #0/INFO]: "),
        Just("[12:00:00] [Server thread/INFO] [minecraft/DedicatedServer]: "),
        Just("12:00:00 [INFO] "),
        Just(""),
    ]
}

fn rules() -> impl Strategy<Value = Rule> {
    prop_oneof![
        Just(Rule::Unknown),
        Just(Rule::Platform(Platform::Minecraft)),
        Just(Rule::Platform(Platform::Velocity)),
        Just(Rule::Platform(Platform::Bungeecord)),
        Just(Rule::Line(LineText::new("Done").unwrap())),
    ]
}

proptest! {
    #[test]
    fn no_player_makes_a_server_ready(
        header in header(), chat in chat(), rule in rules(), index in 0..READY_LINES.len(),
    ) {
        prop_assume!(!chat.starts_with("INFO: ") && !chat.starts_with("WARN: "));
        let said = message(READY_LINES[index].1);
        let line = format!("{header}{chat}{said}");
        prop_assert!(!is_ready(rule, &line), "{}", line);
    }

    #[test]
    fn colours_change_nothing(index in 0..READY_LINES.len(), places in prop::collection::vec((0..200_usize, 0..4_usize), 0..8)) {
        let (_, line) = READY_LINES[index];
        let mut coloured: Vec<char> = line.chars().filter(|letter| !letter.is_control()).collect();
        let plain: String = coloured.iter().collect();
        prop_assume!(line == plain && !line.contains('\u{a7}'));
        let end = coloured.len();
        let mut places: Vec<_> = places.into_iter().map(|(place, colour)| (place.min(end), colour)).collect();
        places.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
        for (place, colour) in places {
            let colour = ["\u{1b}[0m", "\u{1b}[38;2;1;2;3m", "\u{a7}a", "\u{9b}1m"][colour];
            coloured.splice(place..place, colour.chars());
        }
        let coloured: String = coloured.into_iter().collect();
        prop_assert_eq!(is_ready(Rule::Unknown, &coloured), is_ready(Rule::Unknown, line));
    }

    #[test]
    fn no_line_does_any_harm(rule in rules(), line in prop_oneof![any::<String>(), "[\\[\\]:/. 0-9INFO\u{1b}\u{a7}\u{9b}>-]{0,80}"]) {
        let mut judge = judge(rule);
        let before = judge.waiting();
        let verdict = judge.handle_line(&line);
        // The same line says the same again, unless it told the platform.
        if verdict == Verdict::Waiting(before) {
            prop_assert_eq!(judge.handle_line(&line), verdict);
        }
        let rest = message(&line);
        prop_assert!(line.ends_with(rest), "a message is the end of its line");
    }
}
