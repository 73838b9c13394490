package me.prexorjustin.prexorcloud.module;

import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Path;
import java.util.List;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/** Speaks version 1 of the protocol between a daemon and the host of a module, over standard input and output. */
public final class ModuleHost implements ModuleContext {
    private static final int PROTOCOL = 1;
    /** The daemon takes no line of more than 64 KiB; a letter takes at most 6 bytes. */
    private static final int LONGEST_MESSAGE = 8 * 1024;

    private final HostedModule module;
    private final PrintStream output;
    private String id = "";
    private String version = "";
    private String node = "";
    private Path folder = Path.of("");
    private boolean hasSaidState;

    private ModuleHost(HostedModule module, PrintStream output) {
        this.module = module;
        this.output = output;
    }

    /** Hosts a module until the daemon ends it. */
    public static void run(HostedModule module) {
        PrintStream output = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        // Standard output is the protocol's: what a module prints goes to its console.
        System.setOut(System.err);
        int code = 0;
        try {
            new ModuleHost(module, output).serve();
        } catch (IOException | RuntimeException problem) {
            problem.printStackTrace();
            code = 1;
        }
        // Threads of the module do not keep it alive.
        System.exit(code);
    }

    private void serve() throws IOException {
        BufferedReader input =
                new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line = input.readLine(); line != null; line = input.readLine()) {
            List<String> members = Json.members(line);
            switch (Json.text(members, "type")) {
                case "hello" -> {
                    id = Json.text(members, "module");
                    version = Json.text(members, "version");
                    node = Json.text(members, "node");
                    folder = Path.of(Json.text(members, "folder"));
                    say("{\"type\":\"ready\",\"protocol\":" + PROTOCOL + ",\"pings\":true}");
                }
                case "start" -> start();
                case "event" -> event(members);
                // In its turn: what hangs in an event does not answer.
                case "ping" -> say("{\"type\":\"pong\",\"number\":" + Json.raw(members, "number") + "}");
                case "gap" -> gap(Json.number(members, "missed"));
                case "stop" -> {
                    stop();
                    return;
                }
                // A later daemon may say more.
                default -> {}
            }
        }
        // The daemon is gone.
        stop();
    }

    private void start() {
        try {
            module.start(this);
            if (!hasSaidState) {
                active();
            }
        } catch (Exception problem) {
            problem.printStackTrace();
            state("FAILED", problem.toString());
        }
    }

    private void event(List<String> members) {
        try {
            String payload = Json.raw(members, "payload");
            module.event(this, Json.text(members, "event_type"), payload, Json.number(members, "sequence"));
        } catch (Exception problem) {
            problem.printStackTrace();
        }
    }

    private void gap(long missed) {
        try {
            module.gap(this, missed);
        } catch (Exception problem) {
            problem.printStackTrace();
        }
    }

    private void stop() {
        try {
            module.stop(this);
        } catch (Exception problem) {
            problem.printStackTrace();
        }
        say("{\"type\":\"stopped\"}");
    }

    private void say(String line) {
        synchronized (output) {
            output.print(line + "\n");
            output.flush();
        }
    }

    private void state(String state, String error) {
        hasSaidState = true;
        say("{\"type\":\"state\",\"state\":\"" + state + "\",\"error\":" + Json.quoted(cut(error)) + "}");
    }

    private static String cut(String text) {
        return text.length() <= LONGEST_MESSAGE ? text : text.substring(0, LONGEST_MESSAGE);
    }

    private void types(String type, String... eventTypes) {
        String list = Stream.of(eventTypes).map(Json::quoted).collect(Collectors.joining(","));
        say("{\"type\":\"" + type + "\",\"event_types\":[" + list + "]}");
    }

    @Override
    public String id() {
        return id;
    }

    @Override
    public String version() {
        return version;
    }

    @Override
    public String node() {
        return node;
    }

    @Override
    public Path folder() {
        return folder;
    }

    @Override
    public void subscribe(String... eventTypes) {
        types("subscribe", eventTypes);
    }

    @Override
    public void unsubscribe(String... eventTypes) {
        types("unsubscribe", eventTypes);
    }

    @Override
    public void log(String level, String message) {
        String quoted = Json.quoted(cut(message));
        say("{\"type\":\"log\",\"level\":" + Json.quoted(level) + ",\"message\":" + quoted + "}");
    }

    @Override
    public void waiting(String why) {
        state("WAITING", why);
    }

    @Override
    public void active() {
        state("ACTIVE", "");
    }
}
