package me.prexorjustin.prexorcloud.interop;

import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Message;
import com.google.protobuf.util.JsonFormat;
import java.io.BufferedReader;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** Orders on standard input and news on standard output: one JSON object with one key a line. */
final class Lines {
    /** What an order does; `body` is the value of its key. */
    interface Order {
        void carryOut(JsonObject body) throws Exception;
    }

    private static final JsonFormat.Printer PRINTER =
            JsonFormat.printer().preservingProtoFieldNames().omittingInsignificantWhitespace();

    private final BufferedReader in = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    private final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);

    /** Carries out orders until there are no more. */
    void follow(Map<String, Order> orders) throws Exception {
        for (String line = in.readLine(); line != null; line = in.readLine()) {
            for (Map.Entry<String, JsonElement> entry : JsonParser.parseString(line).getAsJsonObject().entrySet()) {
                Order order = orders.get(entry.getKey());
                if (order == null) {
                    throw new IOException("there is no order " + entry.getKey() + "; there are " + orders.keySet());
                }
                order.carryOut(entry.getValue().getAsJsonObject());
            }
        }
    }

    synchronized void tell(String news, JsonObject body) {
        JsonObject line = new JsonObject();
        line.add(news, body);
        out.println(line);
    }

    /** A message in the JSON of protobuf, with the field names of the .proto files. */
    static JsonObject json(Message message) {
        try {
            return JsonParser.parseString(PRINTER.print(message)).getAsJsonObject();
        } catch (InvalidProtocolBufferException error) {
            throw new IllegalStateException(error);
        }
    }

    /** Fills a message from such JSON. */
    static <B extends Message.Builder> B fill(B builder, JsonObject json) throws InvalidProtocolBufferException {
        JsonFormat.parser().merge(json.toString(), builder);
        return builder;
    }
}
