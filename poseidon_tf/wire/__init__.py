"""Bytes and their meaning: frames, and the message stubs that protoc writes."""
