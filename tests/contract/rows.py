"""Every row of the contract, and the tests that hold it: row -> tests, each "file::function".

A defect (A1 to E2) is held by every test of this directory whose name begins with its id, as test_b4_...; only what is
tested elsewhere is named here. All but those marked test_driver run on QEMU, too.
"""

from __future__ import annotations

NAMES, RESOLUTION, TEMPLATES = (f"test_{name}.py" for name in ("names", "resolution", "templates"))
IMPORTS, PATTERNS = "test_imports.py", "test_patterns.py"
FACETS = "test_facets.py"
WORKFLOWS, LIVE = "../local/test_workflows.py", "../real/test_live.py"
IMAGES, SOURCES = "../pure/test_image.py", "../pure/test_image_source.py"

ROWS: dict[str, tuple[str, ...]] = {
    # 1. Names
    "1 plugin key, executor, package, labels": (f"{NAMES}::test_plugin_key_executor_package_and_labels",),
    "1 plugin YAML files": (f"{NAMES}::test_types_have_their_bases_properties_and_data_types",),
    "1 modules and functions": (f"{NAMES}::test_public_functions_are_called_with_any_keywords",),
    "1 device functions": (
        f"{LIVE}::test_a_disk_comes_and_goes", f"{LIVE}::test_a_device_from_a_template_of_ones_own",
    ),
    "1 any function from any operation": (f"{RESOLUTION}::test_an_operation_may_be_called_from_any_other",),
    "1 aliases from before 0.7.0": (f"{TEMPLATES}::test_inputs_of_releases_before_0_7",),
    # 2. Types and properties
    "2 types, bases, properties": (
        f"{NAMES}::test_types_have_their_bases_properties_and_data_types",
        f"{NAMES}::test_the_types_declare_what_old_base_types_lack",
    ),
    "2 params, defaults": (
        f"{NAMES}::test_params_have_their_types_and_defaults", f"{NAMES}::test_defaults_are_there_without_params",
    ),
    "2 params as a property are checked": (f"{NAMES}::test_params_of_a_property_are_checked_by_the_parser",),
    "2 params as an input are free": (f"{NAMES}::test_params_of_an_input_are_free",),
    "2 units of memory": (f"{RESOLUTION}::test_a_maximum_of_memory_is_twice_what_is_asked_for",),
    "2 units of volumes": (f"{RESOLUTION}::test_what_is_recorded_of_each_kind",),
    "2 domain_cpu": (f"{FACETS}::test_the_mode_of_the_processor",),
    "2 pool path, capacity": (f"{FACETS}::test_the_packaged_pool",),
    "2 zero_wipe, files_raw": ("test_defects_host.py::test_b11_zeros_and_raw_files_are_bytes",),
    "2 full_dump": (
        "test_snapshot_defects.py::test_a4_a_restore_checks_the_dump_before_it_touches_the_domain",
        "../real/test_backup_beside.py::test_dump_has_them",
    ),
    "2 backup_dir": ("test_snapshot_defects.py::test_b24_two_deployments_do_not_collide",),
    "2 instance_uuid": (f"{RESOLUTION}::test_the_uuid_of_an_input_becomes_that_of_the_object",),
    "2 wait_for_ip": (f"{RESOLUTION}::test_wait_for_ip_that_no_merged_params_hold_is_false",),
    "2 iso9660 volume and pool": (f"{RESOLUTION}::test_the_iso_needs_its_volume_and_pool",),
    "2 devices": (f"{TEMPLATES}::test_a_template_with_every_old_variable",),
    "2 forwards and ips": (f"{TEMPLATES}::test_the_packaged_network",),
    # 3. Operations
    "3 operations and inputs": (f"{NAMES}::test_operations_have_their_functions_and_inputs",),
    "3 an implementation drops the inputs": (
        f"{NAMES}::test_an_implementation_of_a_blueprint_drops_the_inputs_of_the_type",
    ),
    "3 external objects": (
        f"{RESOLUTION}::test_an_external_domain_is_found_by_name_and_left_alone",
        f"{RESOLUTION}::test_an_external_domain_is_acted_on_but_not_ended",
        f"{RESOLUTION}::test_networks_pools_and_volumes_leave_what_is_external",
        f"{RESOLUTION}::test_what_is_external_and_missing_is_final",
    ),
    "3 no resource_id": (f"{RESOLUTION}::test_without_a_resource_id_ending_is_nothing_and_the_rest_is_final",),
    "3 update": (
        f"{LIVE}::test_memory_shrinks_and_grows_in_the_guest_and_in_the_definition",
        f"{LIVE}::test_beyond_the_running_maximum_it_waits_for_the_next_start",
    ),
    "3 reboot": (f"{LIVE}::test_a_reboot_is_one_of_the_guest_not_of_its_qemu",),
    "3 perfomance": (f"{LIVE}::test_the_figures_of_a_busy_guest",),
    # 4. Resolution
    "4.1 libvirt_auth": (f"{RESOLUTION}::test_libvirt_auth_input_before_runtime_before_property",),
    "4.2 params": (f"{RESOLUTION}::test_params_are_merged_top_level_and_kept_for_later_operations",),
    "4.3 name and UUID": (f"{RESOLUTION}::test_an_empty_name_is_the_instance_id_and_the_uuid_is_kept",),
    "4.4 resource_id, use_external_resource": (
        f"{RESOLUTION}::test_an_external_domain_is_found_by_name_and_left_alone",
        f"{RESOLUTION}::test_false_in_every_spelling_makes_an_object_of_our_own",
    ),
    "4 runtime params before create": (
        f"{RESOLUTION}::test_params_written_before_create_are_honoured_and_read_again_in_configure",
    ),
    # 5. Runtime properties
    "5 domain": (f"{RESOLUTION}::test_what_a_started_domain_records",),
    "5 network, pool, volume": (f"{RESOLUTION}::test_what_is_recorded_of_each_kind",),
    "5 capacity and allocation of a url": ("../real/test_classic.py::test_the_way_of_the_existing_plugin",),
    "5 backups": ("test_snapshot_defects.py::test_b7_networks_and_pools_come_back",),
    # 6. Workflows
    "6 parameters": (f"{NAMES}::test_workflows_have_their_parameters_without_types",),
    "6 order, every kwarg, texts": (f"{WORKFLOWS}::test_the_six_in_their_order_with_their_parameters",),
    "6 filters and skip_actions": (f"{WORKFLOWS}::test_filters_and_skipped_actions",),
    "6 all or none": (
        f"{WORKFLOWS}::test_a_backup_that_fails_on_one_is_on_none",
        f"{WORKFLOWS}::test_what_cannot_be_cleaned_up_is_named",
    ),
    "6 rotation": (
        f"{WORKFLOWS}::test_old_backups_go_when_all_have_the_new_one",
        "test_workflows_host.py::test_a_backup_that_fails_lets_no_old_one_go",
    ),
    "6 together with the utilities plugin": (f"{WORKFLOWS}::test_blueprints_that_import_the_utilities_plugin_too",),
    "6 on a real host": (
        "test_workflows_host.py::test_backup_restore_and_remove_backup",
        "test_workflows_host.py::test_a_backup_that_fails_on_one_machine_is_nowhere",
        "test_workflows_host.py::test_backups_in_files",
        "test_workflows_host.py::test_backups_in_files_that_fail_on_one_machine_are_nowhere",
        "test_workflows_host.py::test_suspend_statistics_resume",
    ),
    "6 full names, incremental, files": (
        "test_snapshot_defects.py::test_b5_existing_and_unknown_names_are_errors_that_no_retry_helps",
        "test_snapshot_defects.py::test_b7_a_definition_is_restored",
        "test_snapshot_defects.py::test_b24_names_stay_inside",
    ),
    # 7. Templates and relationship
    "7 source": (f"{TEMPLATES}::test_a_resource_comes_before_a_text",),
    "7 variables, ctx, toxml, device lists": (f"{TEMPLATES}::test_a_template_with_every_old_variable",),
    "7 lists only where not empty": (f"{TEMPLATES}::test_lists_without_an_entry_are_false",),
    "7 undefined variables": (
        f"{TEMPLATES}::test_a_variable_that_nobody_defines_is_named",
        f"{TEMPLATES}::test_templates_of_the_old_style_run_unchanged",
        f"{TEMPLATES}::test_what_is_misspelt_is_named_with_its_line",
        f"{TEMPLATES}::test_a_new_template_is_strict",
    ),
    "7 packaged domain": (f"{TEMPLATES}::test_the_packaged_domain_is_what_guests_see_today",),
    "7 snapshot template": ("test_snapshot_defects.py::test_user_templates_of_snapshots",),
    "7 packaged network": (f"{TEMPLATES}::test_the_packaged_network",),
    "7 packaged pool and volume": (f"{FACETS}::test_the_packaged_pool", f"{FACETS}::test_the_packaged_volume"),
    "7 connected_to, link and unlink": (
        "test_defects.py::test_b18_link_and_unlink_write_to_the_machine_never_to_the_network",
    ),
    "7 connected_to": (f"{NAMES}::test_the_relationship",),
    # 8. Patterns
    "8 plain connected_to, equal tap names, upper case MAC": (f"{PATTERNS}::test_the_patterns",),
    "8 imports": (
        f"{IMPORTS}::test_the_plugin_by_url_and_by_name", f"{IMPORTS}::test_the_base_types_of_any_version",
        f"{IMPORTS}::test_the_plugin_by_relative_path", f"{IMPORTS}::test_an_old_blueprint_initialises_unchanged",
    ),
    "8 params as inputs, get_attribute, preconfigure, templates, nested ISO": (f"{PATTERNS}::test_the_patterns",),
    "8 an external machine is resized": (f"{PATTERNS}::test_an_existing_machine_is_resized_by_its_start",),
    "8 scaling group": (f"{PATTERNS}::test_a_scaling_group_of_machines_with_their_disks",),
    "8 boot volume by url, seed image": ("../real/test_classic.py::test_the_way_of_the_existing_plugin",),
}  # fmt: skip

# What a defect's line names beside its main case, where a test elsewhere holds it.
ALSO: dict[str, tuple[str, ...]] = {
    "A3": ("../real/pools/test_devices.py::test_a_mount_point_that_was_there_stays",),
    "B8": (f"{LIVE}::test_memory_shrinks_and_grows_in_the_guest_and_in_the_definition",),
    "B10": ("../real/test_killed.py::test_install_killed_goes_on",),
    "B13": (
        "../pure/test_stream.py::test_short_sends_lose_nothing_and_repeat_nothing",
        "../real/test_far_host.py::test_an_upload_that_is_cut_off",
    ),
    "B14": (
        f"{SOURCES}::test_a_server_that_stalls_is_left_and_asked_again",
        f"{SOURCES}::test_a_certificate_that_is_not_trusted_and_one_that_is",
        f"{IMAGES}::test_a_cut_transfer_goes_on_where_it_stopped",
        f"{IMAGES}::test_a_server_without_ranges_gives_no_duplicate_data",
    ),
    "B15": ("../real/test_networks.py::test_networks_are_persistent_and_start_with_the_host",),
    "B17": (
        f"{RESOLUTION}::test_what_a_started_domain_records",
        "../real/test_networks.py::test_an_address_that_only_arp_knows",
        "../driver/test_addresses.py::test_each_address_once_and_in_order_of_the_sources",
        "../driver/test_addresses.py::test_macs_meet_in_one_form_and_foreign_ones_are_left_out",
    ),
    "C2": ("../driver/test_addresses.py::test_a_turn_without_an_address_ends_and_may_come_again",),
    "C3": ("../driver/test_session.py::test_a_dead_connection_is_opened_anew",),
    "C4": (f"{IMAGES}::test_ten_processes_make_one_download",),
    "D2": ("../real/test_secrets.py::test_secrets_are_nowhere_but_where_they_must_be",),
    "D5": ("test_snapshot_defects.py::test_b24_two_deployments_do_not_collide",),
}  # fmt: skip

DEFECTS = (
    *(f"A{number}" for number in range(1, 6)), *(f"B{number}" for number in range(1, 26)),
    *(f"C{number}" for number in range(1, 6)), *(f"D{number}" for number in range(1, 6)), "E1", "E2",
)  # fmt: skip
