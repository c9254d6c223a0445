"""The web UI; the only package that imports Gradio. Read in this order: app, services, tabs/, jobs/, i18n/; presets,
bug_report and speed_test stand alone.
"""
