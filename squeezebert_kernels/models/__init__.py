"""The drop-in SqueezeBERT: transformers' classes and checkpoints, on the kernels.

squeezebert    embeddings, attention, layers, encoder, model
heads          the model with its five heads
configuration  SqueezeBertConfig, checked
inputs         the arguments of a call, checked; masks
checkpoints    what is wrong with a file of weights
tokenization   SqueezeBertTokenizer
pooling        one embedding for a text
hub            checkpoints from the Hugging Face hub
"""
