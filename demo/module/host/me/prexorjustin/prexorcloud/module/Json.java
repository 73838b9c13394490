package me.prexorjustin.prexorcloud.module;

import java.util.ArrayList;
import java.util.List;

/** As much of JSON as the protocol of hosts needs: the members of one object, and texts. */
final class Json {
    private final String text;
    private int at;

    private Json(String text) {
        this.text = text;
    }

    /** Names and values of an object, in turn: a name is a text, and a value is as it was written. */
    static List<String> members(String line) {
        Json json = new Json(line);
        List<String> members = new ArrayList<>();
        json.expect('{');
        if (json.next() == '}') {
            return members;
        }
        do {
            json.next();
            members.add(unquoted(json.value()));
            json.expect(':');
            json.next();
            members.add(json.value());
        } while (json.taken() == ',');
        return members;
    }

    /** A member as it was written. */
    static String raw(List<String> members, String name) {
        String found = find(members, name);
        if (found == null) {
            throw new IllegalArgumentException("no `" + name + "`");
        }
        return found;
    }

    /** A member that is a whole number, 0 if it is not there; one beyond 63 bits is negative. */
    static long number(List<String> members, String name) {
        String found = find(members, name);
        return found == null ? 0 : Long.parseUnsignedLong(found);
    }

    private static String find(List<String> members, String name) {
        for (int place = 0; place + 1 < members.size(); place += 2) {
            if (members.get(place).equals(name)) {
                return members.get(place + 1);
            }
        }
        return null;
    }

    /** A member that is a text. */
    static String text(List<String> members, String name) {
        return unquoted(raw(members, name));
    }

    static String quoted(String text) {
        StringBuilder quoted = new StringBuilder("\"");
        for (char letter : text.toCharArray()) {
            if (letter == '"' || letter == '\\') {
                quoted.append('\\').append(letter);
            } else if (letter < ' ' || Character.isSurrogate(letter)) {
                quoted.append(String.format("\\u%04x", (int) letter));
            } else {
                quoted.append(letter);
            }
        }
        return quoted.append('"').toString();
    }

    private static String unquoted(String value) {
        if (value.length() < 2 || value.charAt(0) != '"') {
            throw new IllegalArgumentException("no text: " + value);
        }
        StringBuilder text = new StringBuilder();
        for (int place = 1; place < value.length() - 1; place++) {
            char letter = value.charAt(place);
            if (letter != '\\') {
                text.append(letter);
                continue;
            }
            place++;
            switch (value.charAt(place)) {
                case 'b' -> text.append('\b');
                case 'f' -> text.append('\f');
                case 'n' -> text.append('\n');
                case 'r' -> text.append('\r');
                case 't' -> text.append('\t');
                case 'u' -> {
                    text.append((char) Integer.parseInt(value.substring(place + 1, place + 5), 16));
                    place += 4;
                }
                default -> text.append(value.charAt(place));
            }
        }
        return text.toString();
    }

    /** The value that begins here, as it is written. */
    private String value() {
        int start = at;
        int depth = 0;
        boolean isQuoted = false;
        for (; at < text.length(); at++) {
            char letter = text.charAt(at);
            if (isQuoted) {
                if (letter == '\\') {
                    at++;
                } else if (letter == '"') {
                    isQuoted = false;
                }
            } else if (letter == '"') {
                isQuoted = true;
            } else if (letter == '{' || letter == '[') {
                depth++;
            } else if (depth == 0 && (letter == ',' || letter == ':' || letter == '}')) {
                return text.substring(start, at).strip();
            } else if (letter == '}' || letter == ']') {
                depth--;
            }
        }
        throw new IllegalArgumentException("a line that ends early");
    }

    private char next() {
        while (at < text.length() && Character.isWhitespace(text.charAt(at))) {
            at++;
        }
        if (at == text.length()) {
            throw new IllegalArgumentException("a line that ends early");
        }
        return text.charAt(at);
    }

    private char taken() {
        char letter = next();
        at++;
        return letter;
    }

    private void expect(char wanted) {
        if (taken() != wanted) {
            throw new IllegalArgumentException("no `" + wanted + "`");
        }
    }
}
