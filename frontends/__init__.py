"""Front ends: everything that turns a source into a Graph. Imported as `prunegraph.frontends`."""
