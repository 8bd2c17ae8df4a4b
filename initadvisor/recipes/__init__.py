"""How is a scheme written down, read back and turned into code?"""
