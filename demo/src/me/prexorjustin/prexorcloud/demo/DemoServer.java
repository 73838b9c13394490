package me.prexorjustin.prexorcloud.demo;

import java.io.BufferedOutputStream;
import java.io.BufferedReader;
import java.io.FileDescriptor;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.net.InetSocketAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.charset.StandardCharsets;
import java.time.LocalTime;
import java.time.ZoneOffset;
import java.time.format.DateTimeFormatter;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;

/**
 * A stand-in for a game server: boots, listens, obeys its console, stops or crashes on demand.
 *
 * <p>It never prints its environment, which holds a secret.
 */
public final class DemoServer {

    private static final DateTimeFormatter TIME = DateTimeFormatter.ofPattern("HH:mm:ss", Locale.ROOT);
    private static final int LARGEST_SPAM = 10_000_000;

    private final PrintStream out;
    private final int port;
    private boolean saved;

    private DemoServer(PrintStream out, int port) {
        this.out = out;
        this.port = port;
    }

    public static void main(String[] arguments) throws IOException, InterruptedException {
        long begin = System.nanoTime();
        // One write per line, whatever the platform's default is: a line must be visible once it is printed.
        PrintStream out = new PrintStream(
                new BufferedOutputStream(new FileOutputStream(FileDescriptor.out), 65536), true, StandardCharsets.UTF_8);
        int port = port(arguments);
        if (port < 1 || port > 65535) {
            System.err.println("usage: demo-server --port <1..65535> [--nogui]");
            System.exit(2);
        }
        new DemoServer(out, port).run(begin);
    }

    private static int port(String[] arguments) {
        for (int i = 0; i + 1 < arguments.length; i++) {
            if (arguments[i].equals("--port")) {
                try {
                    return Integer.parseInt(arguments[i + 1]);
                } catch (NumberFormatException notANumber) {
                    return -1;
                }
            }
        }
        return -1;
    }

    private void run(long begin) throws IOException, InterruptedException {
        info("Starting PrexorCloud demo server version 1");
        info("Loading properties");
        ServerSocket listener = new ServerSocket();
        try {
            info("Starting server on *:" + port);
            listener.setReuseAddress(true);
            listener.bind(new InetSocketAddress(port));
        } catch (IOException refused) {
            info("**** FAILED TO BIND TO PORT!");
            info("The exception was: " + refused);
            System.exit(1);
        }
        info("Preparing level \"world\"");
        Thread doorman = new Thread(() -> greet(listener), "doorman");
        doorman.setDaemon(true);
        doorman.start();
        Runtime.getRuntime().addShutdownHook(new Thread(this::save, "shutdown"));
        double seconds = (System.nanoTime() - begin) / 1e9;
        info(String.format(Locale.ROOT, "Done (%.3fs)! For help, type \"help\"", seconds));
        obey(new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8)));
    }

    private static void greet(ServerSocket listener) {
        while (true) {
            try (Socket visitor = listener.accept()) {
                visitor.setSoTimeout(1000);
            } catch (IOException gone) {
                if (listener.isClosed()) {
                    return;
                }
            }
        }
    }

    private void obey(BufferedReader console) throws IOException, InterruptedException {
        String line;
        while ((line = console.readLine()) != null) {
            String command = line.strip();
            int blank = command.indexOf(' ');
            String word = blank < 0 ? command : command.substring(0, blank);
            String rest = blank < 0 ? "" : command.substring(blank + 1).strip();
            switch (word) {
                case "" -> { }
                case "help" -> info("Commands: help, list, say TEXT, spam N, hang, stop, crash, oom");
                case "list" -> info("There are 0 of a max of 100 players online:");
                case "say" -> info("[Server] " + rest);
                case "spam" -> spam(rest);
                case "hang" -> hang();
                case "crash" -> {
                    abandon();
                    throw new IllegalStateException("crash was asked for on the console");
                }
                case "oom" -> {
                    abandon();
                    fill();
                }
                case "stop" -> {
                    info("Stopping the server");
                    save();
                    System.exit(0);
                }
                default -> info("Unknown command. Type \"help\" for help.");
            }
        }
        // Without a console there is nobody to obey, but players may still be connected.
        Thread.currentThread().join();
    }

    private void spam(String count) {
        int lines;
        try {
            lines = Integer.parseInt(count);
        } catch (NumberFormatException notANumber) {
            lines = -1;
        }
        if (lines < 0 || lines > LARGEST_SPAM) {
            info("Usage: spam <0.." + LARGEST_SPAM + ">");
            return;
        }
        StringBuilder text = new StringBuilder();
        for (int i = 1; i <= lines; i++) {
            text.append("spam line ").append(i).append(" of ").append(lines).append('\n');
            if (text.length() > 32768) {
                out.print(text);
                text.setLength(0);
            }
        }
        out.print(text);
        out.flush();
    }

    private void hang() throws InterruptedException {
        info("The console is not read any more");
        Thread.currentThread().join();
    }

    private static void fill() {
        List<long[]> ballast = new ArrayList<>();
        while (true) {
            ballast.add(new long[1 << 20]);
        }
    }

    /** A server that dies saves nothing. */
    private synchronized void abandon() {
        saved = true;
    }

    private synchronized void save() {
        if (!saved) {
            saved = true;
            info("Saving players");
            info("Saving worlds");
            info("All dimensions are saved");
        }
    }

    private void info(String text) {
        out.println("[" + LocalTime.now(ZoneOffset.UTC).format(TIME) + " INFO]: " + text);
    }
}
