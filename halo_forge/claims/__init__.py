"""Claims: a finished run in one file, and the check of such a file on another machine.

    archive    the file: a zip of known names with a digest of each, read under limits
    pack       what of a run goes into it, and what stays private
    replay     the loop over the stored stages: every value computed again and compared
    numbers    what follows from a completion and its stored result: reward, digests, flags
    programs   every completion through the sandbox again
    recheck    all of it in order, and the report

A claim is hostile input.  Nothing of it is unpickled or imported, no path in it is opened, and programs run in the
sandbox only.
"""
