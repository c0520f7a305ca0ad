"""Documents: rendered from templates, checked against libvirt's schema."""
