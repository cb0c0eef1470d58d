"""The subcommands of ``squeezebert-kernels``, one module each.

Each has HELP, add_arguments(parser) and run(args) -> exit status. What several of them ask of their arguments is in
``arguments``; what they compute is in the other rooms.
"""
