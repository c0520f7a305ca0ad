"""The pages of docs/types, made from the table in cloudify_libvirt/dsl.py and the models in core/spec."""
