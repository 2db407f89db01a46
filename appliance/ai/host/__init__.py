"""The model host: a process of its own, the only one that imports llama_cpp and onnxruntime."""
