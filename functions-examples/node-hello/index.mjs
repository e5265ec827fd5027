// Greets, and tells what Lambda told it about the invocation. No dependencies.
import { release } from "node:os";

export const handler = async (event, context) => {
  const name = event?.name ?? "world";
  console.log(`greeting ${name}`);
  return {
    greeting: `Hello, ${name}!`,
    request_id: context.awsRequestId,
    remaining_ms: context.getRemainingTimeInMillis(),
    function: context.functionName,
    memory_mb: Number(context.memoryLimitInMB),
    node: process.version,
    kernel: release(),
  };
};
