package me.prexorjustin.prexorcloud.module.sample;

import me.prexorjustin.prexorcloud.module.HostedModule;
import me.prexorjustin.prexorcloud.module.ModuleContext;
import me.prexorjustin.prexorcloud.module.ModuleHost;

/** Prints each change of an instance's state. */
public final class SampleModule implements HostedModule {
    private static final String EVENT =
            "me.prexorjustin.prexorcloud.api.event.events.InstanceStateChangedEvent";

    private SampleModule() {}

    public static void main(String[] arguments) {
        ModuleHost.run(new SampleModule());
    }

    @Override
    public void start(ModuleContext context) {
        context.subscribe(EVENT);
        context.log("INFO", "listens to " + EVENT);
    }

    @Override
    public void event(ModuleContext context, String eventType, String payloadJson, long sequence) {
        context.log("INFO", eventType + " #" + sequence + " " + payloadJson);
    }

    @Override
    public void stop(ModuleContext context) {
        context.log("INFO", "says goodbye");
    }
}
