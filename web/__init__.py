"""The web UI; the only package that imports Gradio.

Read in this order: app, services, tabs/, jobs/, i18n/; request_checks, limits, server_lock and cache_cleaner protect
the server; api, validation, presets, bug_report and speed_test stand alone.
"""
