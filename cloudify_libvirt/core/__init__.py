"""The library below the plugin: libvirt objects, specs, rendering; it never imports cloudify."""
