"""Copies all objects of an S3 bucket into a folder: fetch_bucket.py ENDPOINT BUCKET FOLDER."""

import sys
from pathlib import Path

import boto3


def main():
    endpoint, bucket, folder = sys.argv[1:]
    s3 = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="test", aws_secret_access_key="test",
                      region_name="us-east-1")
    for page in s3.get_paginator("list_objects_v2").paginate(Bucket=bucket):
        for found in page.get("Contents", []):
            path = Path(folder, found["Key"])
            path.parent.mkdir(parents=True, exist_ok=True)
            s3.download_file(bucket, found["Key"], str(path))


if __name__ == "__main__":
    main()
