package me.prexorjustin.prexorcloud.demo;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;
import java.util.Map;
import java.util.TreeMap;
import java.util.zip.ZipFile;

/**
 * Behaves like Paperclip, in which servers of Paper are packed: makes the files of the server, and ends if that is all that is asked.
 *
 * <p>Lines in the comment of its jar tell it what else to do, so that a test has as many jars as it needs:
 * {@code count=FILE} adds a line to a file, {@code environment=FILE} writes its environment there, {@code bytes=N} is the size of
 * its server, {@code wait=FILE} waits until there is such a file, {@code hang} never ends, {@code fail} ends with 3.
 */
public final class Paperclip {
    private Paperclip() {}

    public static void main(String[] arguments) throws IOException, InterruptedException {
        int bytes = 1000;
        for (String line : comment().split("\n")) {
            String[] words = line.split("=", 2);
            switch (words[0]) {
                case "count" -> Files.writeString(
                        Path.of(words[1]), "ran\n", StandardOpenOption.CREATE, StandardOpenOption.APPEND);
                case "environment" -> Files.writeString(Path.of(words[1]), environment());
                case "bytes" -> bytes = Integer.parseInt(words[1]);
                case "wait" -> {
                    while (!Files.exists(Path.of(words[1]))) {
                        Thread.sleep(10);
                    }
                }
                case "hang" -> Thread.sleep(Long.MAX_VALUE);
                case "fail" -> {
                    System.err.println("cannot be patched");
                    System.exit(3);
                }
                default -> {}
            }
        }
        make("cache/mojang_1.0.jar", "mojang");
        make("libraries/org/example/a.jar", "library");
        make("versions/1.0/paper-1.0.jar", "x".repeat(bytes));
        make("config/paper-global.yml", "of the jar");
        if (!Boolean.getBoolean("paperclip.patchonly")) {
            System.out.println("Starting the server");
        }
    }

    /** Keeps what is there already, as Paperclip does with what is right. */
    private static void make(String name, String content) throws IOException {
        Path path = Path.of(name);
        if (!Files.exists(path)) {
            System.out.println("Making " + name);
            Files.createDirectories(path.getParent());
            Files.writeString(path, content);
        }
    }

    private static String environment() {
        StringBuilder text = new StringBuilder();
        for (Map.Entry<String, String> entry : new TreeMap<>(System.getenv()).entrySet()) {
            text.append(entry.getKey()).append('=').append(entry.getValue()).append('\n');
        }
        return text.toString();
    }

    private static String comment() throws IOException {
        try (ZipFile jar = new ZipFile(System.getProperty("java.class.path"))) {
            return jar.getComment() == null ? "" : jar.getComment();
        }
    }
}
