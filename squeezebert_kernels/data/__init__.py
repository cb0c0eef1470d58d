"""Text and weights that demo, bench and tests share.

samples        loads both
passages.json  public-domain passages and queries; README.md has their sources
"""
