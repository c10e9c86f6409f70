"""What runs inside the sandbox, in the interpreter of the programs: every module here is sent there.

They import cheap parts of the standard library and one another, and keep to Python 3.8; a test checks that.

    main        the trusted process, which holds the tests
    candidate   the process of the program
    wire        the messages between the two
    remote      what the tests hold in place of the program's functions and objects
    harness     runs a harness written in Python
    steps       runs other tests, step by step
    classes     the methods of test classes
    assertions  counts the assertions that hold
    stand_ins   what tests use of pytest, and of numpy where there is none
"""
