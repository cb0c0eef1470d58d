"""Models as .sbk files, for devices without Python.

sbk_file        a checkpoint or a model as one file
tokenizer_data  a tokenizer as data that the C library reads
unicode_tables  what of Unicode that data carries
c_library       the C library inside the extension, as far as exporting needs it
"""

from .sbk_file import export

__all__ = ["export"]
