"""Amazon's words for the registry: boto3's SageMaker client on the rooms' operations, unchanged.

Enters: the calls about model packages (AWS JSON 1.1, signed with Signature Version 4). Leaves: their answers, with Amazon's error codes.
Guarantees: nothing is stored here; the secret access key is a token of this server and never leaves the client.
"""
