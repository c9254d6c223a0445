"""The tabs of the web UI.

Read in this order: form, handlers, jobs, convert (with convert_inputs, convert_extras, convert_many, remembered,
results, listening), cover, train (with the train_… files), voices (with voice_intake, voice_folders), settings; needs
and device_choice are shared.
"""
