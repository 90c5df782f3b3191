"""Xet: files as terms over chunks that are stored once.

::

    routes      HTTP, and the way in for the application: XetExtension
    access      tokens for one repository, addresses for some bytes of a xorb
    service     receive, register, answer, plan, read
    arrival     a xorb on its way in
    reading     what stored xorbs hold
    copies      whole files for plain readers
    upkeep      gc and fsck
    ── below here: values and bytes alone, no database, no network ──
    files       plans, checks and reading of files that are made of terms
    shard       the format that tells of files and xorbs
    xorb        the format that holds chunks, and a scanner for it
    chunks      one chunk: header, compression
    digests     sha256 of what arrives, for the files that it will make
    hashes      keyed BLAKE3 and the tree over it

Sources: the public Xet protocol specification, version 1.1.0, and what the stock client sends.
"""
