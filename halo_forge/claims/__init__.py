"""Claims: a finished run in one file, and the check of such a file on another machine.

    archive           the file: a zip of known names with a digest of each, read under limits
    pack, privacy     what goes into it, and what stays on the machine
    recheck           all of the check in order, and what came of it
    run_claim         the claim of a run; evaluation_claim.py that of an evaluation
    replay            the loop over the stored stages: every value computed again and compared
    pairs             what follows from a completion and its stored result: reward, digests, flags
    programs          every completion through the sandbox again
    tokens            texts against token ids, with the model's tokenizer
    opened, findings  reading the parts of a claim, and collecting what differs

A claim is hostile input.  Nothing of it is unpickled or imported, no path in it is opened, and programs run in the
sandbox only.
"""
