"""What runs inside the jail, in the interpreter of the answers: the standard library alone, and Python 3.8."""
